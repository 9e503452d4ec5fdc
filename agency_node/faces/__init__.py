"""From a picture to the embedding of the one face in it.

`image` pictures as they come · `metadata` what a file says beside its picture · `embedder` the interface and which embedders there are ·
`dlib_embedder` the one that works at once · `make_dlib_centre` how its centring vector was made. Importing the package loads no network.
"""
