from tests.tracking.fixtures import copy_database, free_port, make_record, server

__all__ = ["copy_database", "free_port", "make_record", "server"]
