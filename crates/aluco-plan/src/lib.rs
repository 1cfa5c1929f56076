//! Bytes before they are allocated: what a model will take, and who holds which part of the one pool of memory.
