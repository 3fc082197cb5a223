use std::time::Duration;

use crate::backend::http1::Address;
use crate::nginx::syntax::{Directive, Fault, Word, address, values};

/// The default port of DNS servers.
const DNS_PORT: u16 = 53;

/// The `resolver` directives of all blocks of a configuration.
#[derive(Debug, Clone, Default)]
pub(crate) struct Resolvers {
    /// The shortest `valid=`, if any.
    pub(crate) valid: Option<Duration>,
    /// The host and port of each DNS server.
    pub(crate) servers: Vec<(String, u16)>,
}

impl Resolvers {
    /// Adds the `resolver` directives of a block.
    pub(crate) fn read(&mut self, block: &[Directive]) -> Result<(), Fault> {
        for directive in block {
            for word in directive.args.iter().filter(|_| directive.is("resolver")) {
                self.read_word(word)?;
            }
            self.read(directive.block.as_deref().unwrap_or_default())?;
        }
        Ok(())
    }

    fn read_word(&mut self, word: &Word) -> Result<(), Fault> {
        if let Some(text) = word.text.strip_prefix("valid=") {
            let valid = Word { text: text.to_owned(), span: word.span.right("valid=".len()) };
            let time = values::time(&valid, values::TimeUnit::Seconds)?;
            if time.is_zero() {
                return Err(valid.invalid("time", "1s or more"));
            }
            self.valid = Some(self.valid.map_or(time, |shortest| shortest.min(time)));
        } else if !word.text.contains('=') && word.text != "off" {
            let written = address::parse(&word.text, DNS_PORT);
            let server = match written.map(|written| written.address) {
                Ok(Address::Socket(address)) => (address.ip().to_string(), address.port()),
                Ok(Address::Name(host, port)) => (host, port),
                Ok(_) | Err(_) => return Err(word.invalid("DNS server", "HOST[:PORT] or [IPV6]:PORT")),
            };
            if !self.servers.contains(&server) {
                self.servers.push(server);
            }
        }
        Ok(())
    }
}
