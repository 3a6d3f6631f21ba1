"""Seamless loops for games: `job` makes a room's folder, the other modules its parts.

`grid` plans the lap, `lap` makes the room into one, `loops` lets the model write it and `circle` closes it, `seam`
judges where its ends meet, `space` places it in its room, `writing` brings it to its level and into files, and
`folders` has a room's folder whole or not at all. `check` and `sheet` look at what was made.
"""
