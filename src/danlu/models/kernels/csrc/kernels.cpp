// One translation unit, so that one run of the compiler, of a second or two, builds everything.
#include "attention.cpp"
#include "heads.cpp"
#include "layers.cpp"
#include "loss.cpp"
