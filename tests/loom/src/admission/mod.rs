pub(crate) mod flight;

pub(crate) mod queue {
    #[derive(Clone, Copy)]
    pub(crate) struct Ticket;
}
