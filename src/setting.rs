/// The error for a setting whose value is out of its range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[error("{name} must be {expected}")]
pub struct InvalidSetting {
    /// The name of the setter.
    pub name: &'static str,
    /// The values that the setter accepts.
    pub expected: &'static str,
}

impl InvalidSetting {
    /// Returns an error unless `valid`.
    pub(crate) fn unless(valid: bool, name: &'static str, expected: &'static str) -> Result<(), Self> {
        if valid { Ok(()) } else { Err(InvalidSetting { name, expected }) }
    }
}
