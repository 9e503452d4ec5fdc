"""From a picture to the embedding of the one face in it.

`image` pictures as they come · `metadata` what a file says beside its picture · `embedder` the interface and which embedders there are ·
`dlib_embedder` the one that works at once · `make_dlib_centre` how its centring vector was made · `insightface_embedder` the one for packs
that an agency brings · `pack` what belongs to such a pack · `measure_pack` how its centring vector is made · `onnx_models` the one door to
onnxruntime and insightface. Importing the package loads no network.
"""
