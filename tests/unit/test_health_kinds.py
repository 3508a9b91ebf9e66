"""What each kind says of a tree of files, or of a real program."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from hak2k.health.kind import Context, Sample, Seen
from hak2k.health.program import first_line
from hak2k.health.sampler import answer
from hak2k.health.table import KINDS


class Machine:
    """A root folder, made file by file."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def put(self, **files: Any) -> None:
        """Paths with __ for / (and _ as it is)."""
        for name, content in files.items():
            path = self.root / name.replace("__", "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{content}\n")

    def see(self, kind: str, timeout_s: float = 5.0, **options: Any) -> Sample:
        known = {key: options.pop(key, None) for key in KINDS[kind].options}
        assert not options
        return KINDS[kind].sample(known, Context(self.root, timeout_s))


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


HARDWARE = ("disk", "tpm", "power", "fan", "temperature", "memory", "cpu", "conntrack", "systemd")


@pytest.mark.parametrize("kind", HARDWARE)
def test_a_machine_without(machine: Machine, kind: str) -> None:
    """Nothing there is normal."""
    seen = machine.see(kind)
    assert seen.seen is Seen.ABSENT
    assert seen.reason


@pytest.mark.parametrize("kind", HARDWARE)
def test_this_machine(kind: str) -> None:
    """Whatever it has, no kind trips over it."""
    seen = answer({"kind": kind, "options": {}, "timeout_s": 5.0}, Path("/"))
    assert not seen.reason.startswith("cannot be checked")


def test_disk(machine: Machine) -> None:
    machine.put(
        sys__block__sda__device__state="running",
        sys__block__sda__device__ioerr_cnt="0x1f",
        sys__block__sda__sda1__partition=1,
        sys__block__loop0__size=0,
    )
    assert machine.see("disk") == Sample(Seen.GOOD, "sda: 31 I/O errors", 31.0)
    assert machine.see("disk", device="sdb").seen is Seen.ABSENT
    machine.put(sys__fs__ext4__sda1__errors_count=3)
    assert machine.see("disk").reason == "sda: 3 errors in the file system of sda1; fsck it"
    machine.put(sys__block__sda__device__state="offline")
    assert machine.see("disk", device="sda").reason == "sda: the kernel says offline"
    machine.put(sys__block__md0__md__degraded=1)
    assert machine.see("disk", device="md0").reason == "md0: RAID without 1 of its disks"


def test_a_folder_that_can_be_written_and_one_that_cannot(machine: Machine) -> None:
    folder = machine.root / "data"
    folder.mkdir()
    assert machine.see("disk", path=str(folder)).seen is Seen.GOOD
    assert (folder / ".hak2k-health").stat().st_size == 4096
    missing = machine.see("disk", path=str(folder / "x"))
    assert (missing.seen, missing.reason) == (
        Seen.BAD,
        f"{folder}/x: No such file or directory",
    )
    # A full disk.
    (folder / "full").mkdir()
    (folder / "full/.hak2k-health").symlink_to("/dev/full")
    assert machine.see("disk", path=str(folder / "full")).seen is Seen.BAD


def test_nothing_is_written_through_a_link(machine: Machine) -> None:
    victim = machine.root / "victim"
    victim.write_text("precious")
    (machine.root / ".hak2k-health").symlink_to(victim)
    assert machine.see("disk", path=str(machine.root)).seen is Seen.BAD
    assert victim.read_text() == "precious"


def test_a_write_that_does_not_end(machine: Machine) -> None:
    os.mkfifo(machine.root / ".hak2k-health")  # opening it waits for a reader
    seen = machine.see("disk", 0.2, path=str(machine.root))
    assert seen.reason == f"{machine.root}: a write did not end within 0.2 s"


def test_tpm(machine: Machine) -> None:
    machine.put(**{"sys__class__tpm__tpm0__pcr-sha256__0": "00" * 32})
    assert machine.see("tpm").reason == "tpm0 answers"
    machine.put(**{"sys__class__tpm__tpm0__pcr-sha256__0": ""})
    assert machine.see("tpm").seen is Seen.BAD
    assert machine.see("tpm", device="tpm1").seen is Seen.ABSENT


def test_power(machine: Machine) -> None:
    supplies = {"AC": ("Mains", 1), "UPS": ("Mains", 1), "BAT0": ("Battery", 0)}
    for name, (type_, online) in supplies.items():
        machine.put(
            **{
                f"sys__class__power_supply__{name}__type": type_,
                f"sys__class__power_supply__{name}__online": online,
            }
        )
    assert machine.see("power").reason == "AC, BAT0, UPS"
    machine.put(sys__class__power_supply__UPS__online=0)
    assert machine.see("power").reason == "UPS: no power"
    assert machine.see("power", device="AC").seen is Seen.GOOD
    machine.put(sys__class__power_supply__BAT0__health="Dead")
    assert machine.see("power", device="BAT0").reason == "BAT0: dead"
    machine.put(sys__class__hwmon__hwmon3__name="pmbus", sys__class__hwmon__hwmon3__power1_alarm=1)
    assert machine.see("power", device="pmbus").reason == "pmbus power1: alarm"


def test_fan(machine: Machine) -> None:
    machine.put(
        sys__class__hwmon__hwmon0__name="nct6775",
        sys__class__hwmon__hwmon0__fan1_input=1200,
        sys__class__hwmon__hwmon0__fan2_input=900,
        sys__class__hwmon__hwmon0__fan2_label="rear",
    )
    assert machine.see("fan") == Sample(Seen.GOOD, "nct6775 rear: 900 rpm", 900.0)
    machine.put(sys__class__hwmon__hwmon0__fan1_alarm=1)
    assert machine.see("fan").reason == "nct6775 fan1: alarm"
    assert machine.see("fan", device="other").seen is Seen.ABSENT


def test_temperature(machine: Machine) -> None:
    machine.put(
        sys__class__hwmon__hwmon0__name="coretemp",
        sys__class__hwmon__hwmon0__temp1_input=61500,
        sys__class__hwmon__hwmon0__temp1_crit=100000,
        sys__class__hwmon__hwmon1__name="ixgbe",
        sys__class__hwmon__hwmon1__temp1_input=70000,
    )
    assert machine.see("temperature").value == 70.0
    assert machine.see("temperature", device="coretemp").reason == "coretemp temp1: 61.5 °C"
    machine.put(sys__class__hwmon__hwmon0__temp1_input=100000)
    assert machine.see("temperature").reason == "coretemp temp1: 100 °C, critical"


def test_the_temperature_of_a_network_card(machine: Machine) -> None:
    machine.put(
        sys__devices__card__hwmon__hwmon7__name="mlx5",
        sys__devices__card__hwmon__hwmon7__temp1_input=55000,
    )
    net = machine.root / "sys/class/net/lan"
    net.mkdir(parents=True)
    (net / "device").symlink_to(machine.root / "sys/devices/card")
    assert machine.see("temperature", interface="lan").value == 55.0
    assert machine.see("temperature", interface="wan").reason == "no sensor of wan"


def test_pressure(machine: Machine) -> None:
    text = "some avg10={} avg60=0.00 avg300=0.00 total=0\nfull avg10={} avg60=0 avg300=0 total=0"
    machine.put(proc__pressure__memory=text.format("9.50", "4.25"))
    machine.put(proc__pressure__cpu=text.format("88.00", "0.00"))
    assert machine.see("memory").value == 4.25
    assert machine.see("cpu").value == 88.0


def test_conntrack(machine: Machine) -> None:
    machine.put(
        proc__sys__net__netfilter__nf_conntrack_count=900,
        proc__sys__net__netfilter__nf_conntrack_max=1000,
    )
    assert machine.see("conntrack") == Sample(Seen.GOOD, "900 of 1000 entries", 90.0)


def program(machine: Machine, name: str, text: str) -> str:
    path = machine.root / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_systemd(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    (machine.root / "run/systemd/system").mkdir(parents=True)
    monkeypatch.setenv("PATH", f"{machine.root}:{os.environ['PATH']}")
    program(machine, "systemctl", "")
    assert machine.see("systemd").reason == "no failed unit"
    failed = "a.service loaded failed failed A\nb.mount loaded failed failed B\nc.x loaded failed"
    program(machine, "systemctl", f"cat <<'END'\n{failed}\nEND")
    assert machine.see("systemd").reason == "failed: a.service, b.mount and 1 more"
    program(machine, "systemctl", "echo Failed to connect to bus; exit 1")
    assert machine.see("systemd").reason == "systemctl: Failed to connect to bus"
    program(machine, "systemctl", "shift 6; echo $*; exit 1")
    assert machine.see("systemd", units=["vpn@*.service"]).reason == "systemctl: vpn@*.service"


@pytest.mark.parametrize(
    ("text", "seen", "reason"),
    [
        ("exit 0", Seen.GOOD, ""),
        ("echo; echo fine; echo more", Seen.GOOD, "fine"),
        ("echo tunnel 3 is down >&2; exit 7", Seen.BAD, "tunnel 3 is down (exit status 7)"),
        ("exit 1", Seen.BAD, "exit status 1"),
        ("kill -9 $$", Seen.BAD, "ended by signal 9"),
        # What is left in the background holds the output open, and nobody waits for it.
        ("sleep 1000 & echo $! >pid; echo started", Seen.GOOD, "started"),
        ("head -c 1000000 /dev/zero | tr '\\0' x", Seen.GOOD, "x" * 119 + "~"),
    ],
)
def test_script(machine: Machine, text: str, seen: Seen, reason: str) -> None:
    path = program(machine, "check", text.replace("pid", str(machine.root / "pid")))
    got = machine.see("script", command=[path])
    assert (got.seen, got.reason) == (seen, reason)
    if (machine.root / "pid").exists():
        os.kill(int((machine.root / "pid").read_text()), 9)


def test_a_script_that_hangs_is_killed_with_all_it_started(machine: Machine) -> None:
    fifo = machine.root / "fifo"
    os.mkfifo(fifo)
    path = program(machine, "check", f"sleep 1000 >{fifo} & sleep 1000")
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    got = machine.see("script", 0.5, command=[path])
    assert (got.seen, got.reason) == (Seen.BAD, f"{path} did not end within 0.5 s, killed")
    # Its child held the other end.
    os.set_blocking(reader, True)
    assert os.read(reader, 1) == b""
    os.close(reader)


def test_a_script_without_a_shell(machine: Machine) -> None:
    got = machine.see("script", command=["/bin/echo", "$HOME; exit 1"])
    assert (got.seen, got.reason) == (Seen.GOOD, "$HOME; exit 1")
    assert (
        machine.see("script", command=["/no/such"]).reason == "/no/such: No such file or directory"
    )


def test_a_line_of_an_operator_s_program_is_made_harmless() -> None:
    assert first_line("\n \x1b[2Jred\x07 \n") == "?[2Jred?"


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_gateway(machine: Machine, address: str) -> None:
    seen = machine.see("gateway", address=address)
    assert seen.seen is Seen.GOOD, seen
    assert seen.reason.startswith(f"{address} answers in ")


def test_a_gateway_that_does_not_answer(machine: Machine) -> None:
    # Nobody has that address, and lo has no neighbours to ask.
    seen = machine.see("gateway", 0.1, address="203.0.113.1", interface="lo")
    assert seen.seen is Seen.BAD
    seen = machine.see("gateway", 0.1, address="203.0.113.1", interface="no-such")
    assert seen.reason == "203.0.113.1: No such device"
