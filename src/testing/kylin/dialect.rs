//! The versions of Kylin that a node can behave as, and what distinguishes them.

use std::fmt;
use std::str::FromStr;

use crate::kylin::KylinVersion;

/// The version of Kylin that a [`KylinNode`](crate::testing::KylinNode) behaves as.
///
/// It is finer than a [`KylinVersion`], which names a generation. Nodes of one generation differ in
/// details that tests depend on.
///
/// | dialect | version | `service_discovery` | unknown path | path of the cookie | `Location` | refusal |
/// |---|---|---|---|---|---|---|
/// | [`Kap2_4`](Self::Kap2_4) | no path | no | 404, start page | `/kylin/` | absolute | HTML |
/// | [`V2_6`](Self::V2_6) | no path | no | 404, start page | `/kylin/` | absolute | HTML |
/// | [`V3_0`](Self::V3_0) | no path | yes | 404, start page | `/kylin/` | absolute | HTML |
/// | [`V3_1`](Self::V3_1) | 3.1.3 | yes | 404, start page | `/kylin/` | absolute | HTML |
/// | [`V4_0`](Self::V4_0) | 4.0.4 | yes | 404, start page | `/kylin` | relative | HTML |
/// | [`V5_0`](Self::V5_0) | 5.0.0 | no | 404, JSON | `/kylin` | relative | JSON |
///
/// The [generation](Self::generation) decides the rest: the name of the cookie, envelopes, and how
/// a failed query is reported. Kylin 5 also locks a user for 30 s after three wrong passwords.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Dialect {
    /// Kyligence Analytics Platform 2.4.
    Kap2_4,
    /// Kylin 2.6, where the list of projects needs no login.
    V2_6,
    /// Kylin 3.0.
    V3_0,
    /// Kylin 3.1.
    #[default]
    V3_1,
    /// Kylin 4.0.
    V4_0,
    /// Kylin 5.0.
    V5_0,
}

/// The facts that distinguish a dialect within its generation.
pub(crate) struct Facts {
    /// The version of the product, and of the metadata that it writes.
    pub(crate) version: &'static str,
    /// Whether `/admin/version` exists.
    pub(crate) has_version_path: bool,
    /// Whether the calls below `/service_discovery` exist.
    pub(crate) has_service_discovery: bool,
    /// Whether `GET /projects` needs no login.
    pub(crate) opens_projects: bool,
    /// Whether the node runs in Tomcat 7, where the cookie's path ends in a slash and `Location` is
    /// absolute.
    pub(crate) is_tomcat_7: bool,
}

const KAP_2_4: Facts = Facts {
    version: "2.4.1",
    has_version_path: false,
    has_service_discovery: false,
    opens_projects: false,
    is_tomcat_7: true,
};
const V_2_6: Facts = Facts { version: "2.6.6", opens_projects: true, ..KAP_2_4 };
const V_3_0: Facts = Facts { version: "3.0.2", has_service_discovery: true, ..KAP_2_4 };
const V_3_1: Facts = Facts { version: "3.1.3", has_version_path: true, ..V_3_0 };
const V_4_0: Facts = Facts { version: "4.0.4", is_tomcat_7: false, ..V_3_1 };
const V_5_0: Facts = Facts { version: "5.0.0", has_service_discovery: false, ..V_4_0 };

impl Dialect {
    /// All dialects, the oldest first.
    pub const ALL: [Dialect; 6] =
        [Dialect::Kap2_4, Dialect::V2_6, Dialect::V3_0, Dialect::V3_1, Dialect::V4_0, Dialect::V5_0];

    /// Returns the generation of the REST interface.
    pub fn generation(self) -> KylinVersion {
        match self {
            Dialect::Kap2_4 | Dialect::V2_6 | Dialect::V3_0 | Dialect::V3_1 | Dialect::V4_0 => KylinVersion::V4,
            Dialect::V5_0 => KylinVersion::V5,
        }
    }

    /// Returns the value of `kylin.version`; `None` before Kylin 3.1, which does not report it.
    pub fn reported_version(self) -> Option<&'static str> {
        self.facts().has_version_path.then_some(self.facts().version)
    }

    /// Returns the first two numbers of the version.
    fn number(self) -> &'static str {
        self.facts().version.get(..3).unwrap_or_default()
    }

    pub(crate) fn facts(self) -> &'static Facts {
        match self {
            Dialect::Kap2_4 => &KAP_2_4,
            Dialect::V2_6 => &V_2_6,
            Dialect::V3_0 => &V_3_0,
            Dialect::V3_1 => &V_3_1,
            Dialect::V4_0 => &V_4_0,
            Dialect::V5_0 => &V_5_0,
        }
    }
}

impl From<KylinVersion> for Dialect {
    /// Returns a dialect of the generation: 3.1 or 5.0.
    fn from(generation: KylinVersion) -> Self {
        match generation {
            KylinVersion::V4 => Dialect::V3_1,
            KylinVersion::V5 => Dialect::V5_0,
        }
    }
}

impl FromStr for Dialect {
    type Err = UnknownDialect;

    /// Parses a number such as `2.4`, or a generation: `v4` is 3.1 and `v5` is 5.0.
    fn from_str(text: &str) -> Result<Self, UnknownDialect> {
        match text {
            "v4" => Ok(KylinVersion::V4.into()),
            "v5" => Ok(KylinVersion::V5.into()),
            number => Dialect::ALL.into_iter().find(|dialect| dialect.number() == number).ok_or(UnknownDialect),
        }
    }
}

impl fmt::Display for Dialect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.number())
    }
}

/// The error for a text that is not a [`Dialect`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected 2.4, 2.6, 3.0, 3.1, 4.0, 5.0, v4 or v5")]
pub struct UnknownDialect;
