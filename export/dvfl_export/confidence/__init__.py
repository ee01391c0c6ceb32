"""How sure a model file may be, and how often it is wrong about videos without its actions."""
