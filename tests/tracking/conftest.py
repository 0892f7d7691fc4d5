from tests.tracking.fixtures import copy_database, free_port, make_record, messages, run_folder, server, sync

__all__ = ["copy_database", "free_port", "make_record", "messages", "run_folder", "server", "sync"]
