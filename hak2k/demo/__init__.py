"""The demonstration: a firewall dies under several hundred connections.

``python -m hak2k.demo`` builds a lab, starts two daemons, opens connections through
the active firewall, cuts its power, and shows what the connections noticed.
"""
