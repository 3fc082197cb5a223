//! `split_clients`: a variable with a value for each part of the clients
//! (`ngx_http_split_clients_module`).

use super::Template;
use crate::nginx::syntax::{Directive, Fault, Word};

pub(super) const USAGE: &str = "split_clients STRING $NAME { PERCENT% VALUE; ... * VALUE; }";

/// 100 %, in hundredths.
const WHOLE: u64 = 10_000;

/// The values, each with the hash at which its part ends; `None` for `*`.
#[derive(Debug)]
pub(super) struct Split(Vec<(Option<u32>, Template)>);

impl Split {
    pub(super) fn read(block: &[Directive]) -> Result<Split, Fault> {
        let (mut sum, mut end, mut parts) = (0, 0_u64, Vec::new());
        for line in block {
            let ([value], None) = (&line.args[..], &line.block) else {
                return Err(line.name.span.value("a line of split_clients is a part and a value", USAGE));
            };
            let part = match line.name.text.as_str() {
                "*" => None,
                _ => Some(hundredths(&line.name)?),
            };
            sum = part.map_or(WHOLE, |part| sum + part);
            if sum > WHOLE {
                return Err(line.name.span.value("the parts are more than 100%", "100% in all, and * for the rest"));
            }
            end += part.unwrap_or(0) * u64::from(u32::MAX) / WHOLE;
            let end = part.and_then(|_| u32::try_from(end).ok());
            parts.push((end, Template::literal(&value.text)));
        }
        Ok(Split(parts))
    }

    pub(super) fn results(&self) -> impl Iterator<Item = &Template> {
        self.0.iter().map(|(_, value)| value)
    }

    /// Returns whether the parts cover all clients.
    pub(super) fn is_whole(&self) -> bool {
        self.0.iter().any(|(end, _)| end.is_none())
    }

    pub(super) fn find(&self, source: &[u8]) -> Option<&Template> {
        let hash = murmur2(source);
        self.0.iter().find(|(end, _)| end.is_none_or(|end| hash < end)).map(|(_, value)| value)
    }
}

/// Reads `20%` or `0.5%`.
fn hundredths(word: &Word) -> Result<u64, Fault> {
    let number = word.text.strip_suffix('%').and_then(|number| {
        let (whole, part) = number.split_once('.').unwrap_or((number, ""));
        let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        let is_valid = !whole.is_empty() && whole.len() <= 3 && part.len() <= 2 && is_number(whole) && is_number(part);
        is_valid.then(|| format!("{whole}{part:0<2}").parse::<u64>().ok()).flatten()
    });
    number.filter(|number| (1..=WHOLE).contains(number)).ok_or_else(|| word.invalid("part", "0.01% to 100%, or *"))
}

/// Hashes as `ngx_murmur_hash2` does: 32-bit MurmurHash2 with the seed 0.
fn murmur2(bytes: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    // As in nginx, the low 32 bits of the length.
    let mut hash = bytes.len() as u32;
    let (words, rest) = bytes.as_chunks::<4>();
    for word in words {
        let mut word = u32::from_le_bytes(*word).wrapping_mul(M);
        word ^= word >> 24;
        hash = hash.wrapping_mul(M) ^ word.wrapping_mul(M);
    }
    if !rest.is_empty() {
        hash ^= rest.iter().rev().fold(0, |word, byte| (word << 8) | u32::from(*byte));
        hash = hash.wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^ (hash >> 15)
}
