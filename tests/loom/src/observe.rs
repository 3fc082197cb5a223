/// The counts of a table of flights.
pub(crate) struct SingleFlightStatus {
    pub(crate) leaders: usize,
    pub(crate) followers: usize,
    pub(crate) shared: u64,
}
