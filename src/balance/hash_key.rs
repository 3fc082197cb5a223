use super::ketama::Ring;
use super::{Balancer, Candidate, Candidates, HashKey, Table};
use crate::hash::Crc32;
use crate::request::RequestView;

/// Unsuccessful draws after which nginx falls back to round robin
/// (ngx_http_upstream_hash_module.c).
const MAX_DRAWS: u32 = 21;

/// Picks by the hash of a key that the application chooses, bit-exact with nginx. Choose it to keep
/// equal keys on one endpoint, whose caches then serve them.
#[derive(Debug)]
pub struct HashKeyed {
    key: Box<dyn HashKey>,
    placement: Placement,
}

#[derive(Debug, Clone, Copy)]
enum Placement {
    Modulo,
    Ring,
}

impl HashKeyed {
    /// Returns nginx's `hash KEY` (as in Cache::Memcached): CRC-32 modulo the total weight, drawn
    /// again if the endpoint is not eligible. A change of membership remaps nearly all keys. A pick
    /// costs constant time.
    pub fn modulo(key: impl HashKey) -> Self {
        HashKeyed { key: Box::new(key), placement: Placement::Modulo }
    }

    /// Returns nginx's `hash KEY consistent` (ketama, as in Cache::Memcached::Fast): a ring of 160
    /// points per unit of weight. An endpoint that leaves moves only its own keys. A pick costs a
    /// binary search.
    ///
    /// If an endpoint is not eligible, the next one on the ring serves. This policy searches 3200
    /// points for it. nginx searches 20 points, and then falls back to round robin.
    pub fn consistent(key: impl HashKey) -> Self {
        HashKeyed { key: Box::new(key), placement: Placement::Ring }
    }

    /// Returns the CRC-32 of `prefix` and the key, or `None` for an empty key.
    fn digest(&self, request: &RequestView<'_>, prefix: &[u8]) -> Option<u32> {
        let mut crc = Crc32::default();
        crc.update(prefix);
        let mut empty = true;
        self.key.feed(request, &mut |piece| {
            empty &= piece.is_empty();
            crc.update(piece);
        });
        (!empty).then(|| crc.finish())
    }

    fn pick_modulo<'c>(&self, request: &RequestView<'_>, from: &Candidates<'c>) -> Option<Candidate<'c>> {
        let mut sum = 0_u32;
        for rehash in 0..MAX_DRAWS {
            let decimal = [b'0' + (rehash / 10) as u8, b'0' + (rehash % 10) as u8];
            let prefix = match rehash {
                0 => &[][..],
                1..10 => &decimal[1..],
                _ => &decimal[..],
            };
            sum = sum.wrapping_add((self.digest(request, prefix)? >> 16) & 0x7fff);
            let candidate = from.at_weight_modulo(sum);
            if from.is_eligible(candidate) {
                return Some(candidate);
            }
        }
        None
    }
}

impl Balancer for HashKeyed {
    fn pick<'c>(&self, request: &RequestView<'_>, from: &Candidates<'c>) -> Option<Candidate<'c>> {
        if from.len() < 2 {
            return None;
        }
        match self.placement {
            Placement::Modulo => self.pick_modulo(request, from),
            Placement::Ring => from.table::<Ring>()?.pick(self.digest(request, b"")?, from),
        }
    }

    fn prepare(&self, members: &Candidates<'_>) -> Table {
        match self.placement {
            Placement::Modulo => Table::none(),
            Placement::Ring => Table::new(Ring::of(members)),
        }
    }
}
