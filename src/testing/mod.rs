//! Parts for tests and demonstrations.
