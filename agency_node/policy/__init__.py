"""Policy as code that a lawyer can read: Cedar packs, one folder each, and the engine that decides by them.

`inputs` says what is decided upon, `pack_folder` reads a pack and refuses a broken one, `engine` decides.
"""
