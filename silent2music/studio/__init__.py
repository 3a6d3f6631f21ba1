"""A page on this machine that runs the command line's own commands, for people who would rather see than type.

`worker` runs commands in a warm process, `project` keeps what they read and write, `commands` says which command a
choice on the page is, `page` has the handlers, `layout` the parts that call them, and `server` serves it all, with
sound and files.
"""
