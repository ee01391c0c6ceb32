"""Your own actions on the device, without PyTorch: clips are recorded, and a model gets a new head.

A command is a module `NAME_cli` whose `add_command` adds its options and its work to dvfl-teach.
"""
