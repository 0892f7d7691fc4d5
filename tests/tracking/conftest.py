from tests.tracking.fixtures import free_port, make_record, messages, run_folder, server, sync

__all__ = ["free_port", "make_record", "messages", "run_folder", "server", "sync"]
