#[path = "../../../src/health/impaired.rs"]
pub(crate) mod impaired;
#[path = "../../../src/health/passive.rs"]
pub(crate) mod passive;
#[path = "../../../src/health/withdrawal.rs"]
pub(crate) mod withdrawal;

#[derive(Debug, Clone, Copy)]
pub(crate) struct Reason;
