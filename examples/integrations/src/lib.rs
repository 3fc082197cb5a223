//! kylin-lb in other frameworks: see the programs in `src/bin`.
