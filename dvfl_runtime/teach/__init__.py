"""Your own actions on the device, without PyTorch: a new head on the features of a model file.

A command is a module `NAME_cli` whose `add_command` adds its options and its work to dvfl-teach.
"""
