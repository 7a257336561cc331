"""The parts of a report, one file each, found by path. `ORDER` says where on the page; gaps leave room for more."""
