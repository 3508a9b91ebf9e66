"""``python -m hak2k.lab.traffic``: a traffic process, driven over standard input."""

from hak2k.lab.traffic.engine import Engine

if __name__ == "__main__":
    Engine().run()
