//! Owns what authors of plugins make.
