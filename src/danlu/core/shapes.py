"""Legend of the shape suffixes that tensor names carry, as in `logits_BTV`.

B  rows of a batch            T  tokens (or positions) of a row     S  keys that a query may see
N  rows and tokens, flat      V  vocabulary, or classes             D  width of the model
H  attention heads            K  key/value heads                    E  width of one head
C, Y, X  channels, height, width of an image                        Q  object queries
"""
