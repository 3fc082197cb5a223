//! The PROXY protocol, versions 1 and 2 (HAProxy's `doc/proxy-protocol.txt`).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use bytes::{Buf, BytesMut};
use tokio::io::AsyncRead;

use crate::body::BoxError;
use crate::server::sniff::read_some;

/// The maximum length of a line of version 1, with its end.
const MAX_LINE: usize = 107;
/// The first bytes of version 2.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// The length of the fixed part: signature, version and command, family and protocol, and the
/// length of the rest.
const FIXED: usize = 16;
/// The maximum length of the addresses and extensions of version 2. Addresses of unix sockets have
/// 216 bytes.
const MAX_REST: usize = 4096;

/// The reason why a connection does not begin with the PROXY protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the connection does not begin with the PROXY protocol: {0}")]
pub(crate) struct InvalidHeader(&'static str);

/// A complete header.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) length: usize,
    /// `None` if the load balancer speaks for itself, as in a health check, or knows no address.
    pub(crate) client: Option<SocketAddr>,
}

/// Reads the header from the beginning of a connection. Bytes after it remain in `read`.
pub(super) async fn read<S: AsyncRead + Unpin>(
    stream: &mut S,
    read: &mut BytesMut,
) -> Result<Option<SocketAddr>, BoxError> {
    loop {
        if let Some(header) = parse(read)? {
            read.advance(header.length);
            return Ok(header.client);
        }
        if !read_some(stream, read).await? {
            return Err(InvalidHeader("it ended").into());
        }
    }
}

/// Parses the header at the beginning of `read`; `None` while it is incomplete.
pub(crate) fn parse(read: &[u8]) -> Result<Option<Header>, InvalidHeader> {
    let begins_as = |start: &[u8]| read.iter().zip(start).all(|(read, start)| read == start);
    if begins_as(SIGNATURE) {
        version_2(read)
    } else if begins_as(b"PROXY ") {
        version_1(read)
    } else {
        Err(InvalidHeader("expected the word PROXY, or the signature of version 2"))
    }
}

fn version_1(read: &[u8]) -> Result<Option<Header>, InvalidHeader> {
    let begin = &read[..read.len().min(MAX_LINE)];
    let Some(end) = begin.windows(2).position(|end| end == b"\r\n") else {
        return if read.len() < MAX_LINE { Ok(None) } else { Err(InvalidHeader("its line is over 107 bytes long")) };
    };
    let line = std::str::from_utf8(&begin[..end]).map_err(|_| InvalidHeader("its line is not ASCII"))?;
    let mut words = line.split(' ').skip(1);
    let client = match words.next() {
        // The receiver ignores the rest of the line.
        Some("UNKNOWN") => None,
        Some(family @ ("TCP4" | "TCP6")) => {
            let is_v6 = family == "TCP6";
            let mut next = || words.next().ok_or(InvalidHeader("its line has too few words"));
            let (source, destination) = (address(next()?, is_v6)?, address(next()?, is_v6)?);
            let (source, _) = (SocketAddr::new(source, port(next()?)?), SocketAddr::new(destination, port(next()?)?));
            if words.next().is_some() {
                return Err(InvalidHeader("its line has too many words"));
            }
            Some(source)
        }
        _ => return Err(InvalidHeader("expected TCP4, TCP6 or UNKNOWN")),
    };
    Ok(Some(Header { length: end + 2, client }))
}

fn address(word: &str, is_v6: bool) -> Result<IpAddr, InvalidHeader> {
    let address =
        if is_v6 { word.parse::<Ipv6Addr>().map(IpAddr::V6) } else { word.parse::<Ipv4Addr>().map(IpAddr::V4) };
    address.map_err(|_| InvalidHeader("an address is malformed"))
}

fn port(word: &str) -> Result<u16, InvalidHeader> {
    let is_number = word.bytes().all(|byte| byte.is_ascii_digit()) && (word == "0" || !word.starts_with('0'));
    word.parse().ok().filter(|_| is_number).ok_or(InvalidHeader("a port is malformed"))
}

fn version_2(read: &[u8]) -> Result<Option<Header>, InvalidHeader> {
    let Some((fixed, rest)) = read.split_at_checked(FIXED) else { return Ok(None) };
    let length = usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    if length > MAX_REST {
        return Err(InvalidHeader("its extensions are over 4096 bytes long"));
    }
    // The version is the upper half of the byte, the command the lower half.
    let is_local = match fixed[12] {
        0x20 => true,
        0x21 => false,
        _ => return Err(InvalidHeader("expected version 2, and the command LOCAL or PROXY")),
    };
    let Some(rest) = rest.get(..length) else { return Ok(None) };
    // The family is the upper half of the byte, the protocol the lower half. Only TCP carries HTTP
    // here.
    let client = match (is_local, fixed[13]) {
        (true, _) | (false, 0x00 | 0x31) => None,
        (false, 0x11) => {
            let &[a, b, c, d, _, _, _, _, high, low, _, _] = rest.first_chunk().ok_or(TOO_SHORT)?;
            Some(SocketAddr::new(Ipv4Addr::new(a, b, c, d).into(), u16::from_be_bytes([high, low])))
        }
        (false, 0x21) => {
            let addresses = rest.first_chunk::<36>().ok_or(TOO_SHORT)?;
            let source = addresses.first_chunk::<16>().map(|source| Ipv6Addr::from(*source)).ok_or(TOO_SHORT)?;
            Some(SocketAddr::new(source.into(), u16::from_be_bytes([addresses[32], addresses[33]])))
        }
        _ => return Err(InvalidHeader("expected TCP over IPv4 or IPv6, or a unix socket")),
    };
    Ok(Some(Header { length: FIXED + length, client }))
}

const TOO_SHORT: InvalidHeader = InvalidHeader("its addresses are cut off");

#[cfg(test)]
mod tests {
    use super::*;

    fn client(read: &[u8]) -> Result<Option<(usize, Option<String>)>, InvalidHeader> {
        let header = parse(read)?;
        Ok(header.map(|header| (header.length, header.client.map(|client| client.to_string()))))
    }

    fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let mut header = SIGNATURE.to_vec();
        header.extend([command, family]);
        header.extend((rest.len() as u16).to_be_bytes());
        header.extend(rest);
        header
    }

    #[test]
    fn version_1_is_parsed() {
        for (line, expected) in [
            (&b"PROXY TCP4 192.0.2.1 198.51.100.2 51000 443\r\n"[..], Some("192.0.2.1:51000")),
            (b"PROXY TCP6 2001:db8::1 2001:db8::2 51000 443\r\n", Some("[2001:db8::1]:51000")),
            (b"PROXY UNKNOWN\r\n", None),
            (b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n", None),
        ] {
            let with_request = [line, b"GET / HTTP/1.1\r\n"].concat();
            assert_eq!(client(&with_request), Ok(Some((line.len(), expected.map(str::to_owned)))));
            for length in 0..line.len() {
                assert_eq!(parse(&line[..length]), Ok(None), "{length}");
            }
        }
    }

    #[test]
    fn version_2_is_parsed() {
        let v4 = [192, 0, 2, 1, 198, 51, 100, 2, 0xc7, 0x38, 1, 0xbb];
        let with_extension = [&v4[..], &[0x04, 0, 1, 7]].concat();
        let mut v6 = [0; 36];
        v6[..16].copy_from_slice(&"2001:db8::1".parse::<Ipv6Addr>().unwrap().octets());
        v6[32..].copy_from_slice(&[0xc7, 0x38, 1, 0xbb]);
        for (header, expected) in [
            (v2(0x21, 0x11, &v4), Some("192.0.2.1:51000")),
            (v2(0x21, 0x11, &with_extension), Some("192.0.2.1:51000")),
            (v2(0x21, 0x21, &v6), Some("[2001:db8::1]:51000")),
            (v2(0x21, 0x31, &[0; 216]), None),
            (v2(0x21, 0x00, &[]), None),
            (v2(0x20, 0x11, &v4), None),
        ] {
            assert_eq!(client(&header), Ok(Some((header.len(), expected.map(str::to_owned)))));
            for length in 0..header.len() {
                assert_eq!(parse(&header[..length]), Ok(None), "{length}");
            }
        }
    }

    #[test]
    fn anything_else_is_refused() {
        let long = [&b"PROXY UNKNOWN "[..], &[b'x'; 100]].concat();
        for line in [
            &b"GET / HTTP/1.1\r\n"[..],
            b"PROXX",
            b"PROXY TCP4 192.0.2.1 198.51.100.2 51000\r\n",
            b"PROXY TCP4 192.0.2.1 198.51.100.2 51000 443 1\r\n",
            b"PROXY TCP4  192.0.2.1 198.51.100.2 51000 443\r\n",
            b"PROXY TCP4 2001:db8::1 2001:db8::2 51000 443\r\n",
            b"PROXY TCP4 192.0.2.1 198.51.100.2 051000 443\r\n",
            b"PROXY TCP4 192.0.2.1 198.51.100.2 +5100 443\r\n",
            b"PROXY TCP4 192.0.2.1 198.51.100.2 70000 443\r\n",
            b"PROXY UDP4 192.0.2.1 198.51.100.2 1 2\r\n",
            b"PROXY \xff\r\n",
            b"PROXY \r\n",
            &long,
            &v2(0x11, 0x11, &[0; 12]),
            &v2(0x22, 0x11, &[0; 12]),
            &v2(0x21, 0x12, &[0; 12]),
            &v2(0x21, 0x11, &[0; 11]),
            &v2(0x21, 0x21, &[0; 35]),
            &v2(0x21, 0x11, &[0; MAX_REST + 1]),
        ] {
            assert!(parse(line).is_err(), "{}", line.escape_ascii());
        }
    }
}
