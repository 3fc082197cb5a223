use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The key that identifies one client for its shares: an IPv4 address, or the first 64 bits of an
/// IPv6 address.
///
/// A subscriber has at least a /64 network, so limits per whole address would have no effect (RFC
/// 6177, 2). An IPv4 address mapped to IPv6 counts as the IPv4 address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum ClientKey {
    V4(u32),
    V6(u64),
}

impl ClientKey {
    pub(crate) fn of(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V4(ip) => ClientKey::V4(ip.to_bits()),
            IpAddr::V6(ip) => ClientKey::V6((ip.to_bits() >> 64) as u64),
        }
    }
}

/// Marks the bits of an IPv4 address: the network `0:ffff::/32` is reserved (RFC 4291, 2.4).
const V4_BITS: u64 = 0xffff << 32;

impl ClientKey {
    /// Returns the key as a number.
    pub(crate) fn to_bits(self) -> u64 {
        match self {
            ClientKey::V4(bits) => V4_BITS | u64::from(bits),
            ClientKey::V6(bits) => bits,
        }
    }

    /// Returns the key that [`to_bits`](Self::to_bits) returned as a number.
    pub(crate) fn from_bits(bits: u64) -> Self {
        if bits >> 32 == V4_BITS >> 32 { ClientKey::V4(bits as u32) } else { ClientKey::V6(bits) }
    }
}

impl fmt::Display for ClientKey {
    /// Writes `192.0.2.1` or `2001:db8::/64`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            ClientKey::V4(bits) => write!(f, "{}", Ipv4Addr::from_bits(bits)),
            ClientKey::V6(bits) => write!(f, "{}/64", Ipv6Addr::from_bits(u128::from(bits) << 64)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_an_ipv4_address_or_a_64_bit_network() {
        let key = |ip: &str| ClientKey::of(ip.parse().unwrap()).to_string();
        assert_eq!(key("192.0.2.1"), "192.0.2.1");
        assert_eq!(key("::ffff:192.0.2.1"), "192.0.2.1");
        assert_eq!(key("2001:db8:1:2::1"), "2001:db8:1:2::/64");
        assert_eq!(key("2001:db8:1:2:ffff::"), key("2001:db8:1:2::1"));
        assert_ne!(key("2001:db8:1:3::1"), key("2001:db8:1:2::1"));
        assert_ne!(ClientKey::of("::1".parse().unwrap()), ClientKey::of("0.0.0.0".parse().unwrap()));
        for ip in ["0.0.0.0", "255.255.255.255", "::1", "2001:db8:1:2::1", "ffff::"] {
            let key = ClientKey::of(ip.parse().unwrap());
            assert_eq!(ClientKey::from_bits(key.to_bits()), key, "{ip}");
        }
    }
}
