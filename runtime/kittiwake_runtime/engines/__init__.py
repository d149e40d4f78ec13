"""Backends that run a bundle's network; `select.open_engine` chooses one."""
