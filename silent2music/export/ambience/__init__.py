"""Seamless loops for games: a room in, a folder of files and their record out.

```
room -> lap, grid -> takes -> folds -> loops -> levels, space -> files -> record, manifest
  lap                 loops, by seam            writing, space            job
```

`lap` plans the lap and makes the room into one, `circle` and `composed` give it a circular score if the model composes,
`loops` lets the model write it and closes it, `seam` judges where its ends meet, `space` places it in its room, `writing`
brings it to its level and into files, and `job` goes through the rooms and has each folder whole or not at all. `extras`
and `transitions` are what is played beside loops, `engines` imports them, `check` and `sheet` look at what was made.
"""
