from tests.cli.two_hosts import copy, hosts
from tests.tracking.fixtures import copy_database, free_port, make_record, server

__all__ = ["copy", "copy_database", "free_port", "hosts", "make_record", "server"]
