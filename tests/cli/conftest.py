from tests.tracking.fixtures import free_port, make_record, server

__all__ = ["free_port", "make_record", "server"]
