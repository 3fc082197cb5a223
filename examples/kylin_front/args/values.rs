//! The values of options.

use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;
use kylin_lb::nginx::InvalidOption;
use kylin_lb::proxy::TrustedProxies;
use kylin_lb::session::RestoreAfterLoss;

use super::Source;
use crate::nodes;

#[cfg(feature = "zookeeper")]
pub(super) fn zookeeper(text: &str) -> Result<Source, String> {
    let source = kylin_lb::discovery::ZooKeeper::parse(text).map_err(|error| error.to_string())?;
    Ok(Source::ZooKeeper(Box::new(source)))
}

#[cfg(not(feature = "zookeeper"))]
pub(super) fn zookeeper(_: &str) -> Result<Source, String> {
    Err("this build has no ZooKeeper client: build it with --features zookeeper".into())
}

/// The rules of the result cache.
#[cfg(feature = "cache")]
pub type Cache = kylin_lb::admission::CacheRules;

/// In a build without a result cache.
#[cfg(not(feature = "cache"))]
pub enum Cache {}

/// Parses `USER:FILE`, and reads the password in the first line of the file.
#[cfg(feature = "cache")]
pub(super) fn cache(text: &str) -> Result<Cache, String> {
    let (user, file) = text.split_once(':').ok_or("expected USER:FILE")?;
    let password = std::fs::read_to_string(file).map_err(|error| format!("{file}: {error}"))?;
    let password = password.lines().next().filter(|line| !line.is_empty()).ok_or(format!("{file} is empty"))?;
    Cache::new().login(user, password).map_err(|error| error.to_string())
}

#[cfg(not(feature = "cache"))]
pub(super) fn cache(_: &str) -> Result<Cache, String> {
    Err("this build has no result cache: build it with --features cache".into())
}

/// Parses addresses and networks, separated by commas.
pub(super) fn trusted(text: &str) -> Result<TrustedProxies, String> {
    let network = |text: &str| {
        let address = text.parse::<IpAddr>().map(IpNet::from);
        address
            .or_else(|_| text.parse())
            .map_err(|_| format!("{text}: expected addresses or networks such as 10.0.0.0/8"))
    };
    Ok(TrustedProxies::new(text.split(',').map(network).collect::<Result<Vec<_>, _>>()?))
}

/// Parses the path of a request, or `none`.
pub(super) fn health_path(name: &str, text: &str) -> Result<Option<String>, String> {
    if text == "none" {
        return Ok(None);
    }
    let is_of_path =
        |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'?' | b'#' | b'"' | b'<' | b'>' | b'\\' | b'^' | b'`');
    match text.starts_with('/') && text.bytes().all(is_of_path) {
        true => Ok(Some(text.to_owned())),
        false => Err(format!(
            "{name} {text}: expected none, or a path such as /front/health: a slash first, no spaces, no arguments"
        )),
    }
}

pub(super) fn count(name: &str, text: &str, max: usize) -> Result<NonZeroUsize, String> {
    text.parse::<NonZeroUsize>()
        .ok()
        .filter(|count| count.get() <= max)
        .ok_or_else(|| format!("{name} {text}: expected a number from 1 to {max}"))
}

pub(super) fn limit<T: TryFrom<NonZeroUsize>>(name: &str, text: &str, max: usize) -> Result<Option<T>, String> {
    if text == "none" {
        return Ok(None);
    }
    count(name, text, max).map(|limit| T::try_from(limit).ok()).map_err(|error| format!("{error}, or none"))
}

pub(super) fn time(name: &str, text: &str) -> Result<Duration, String> {
    nodes::time(text).map_err(|error| format!("{name} {text}: {error}"))
}

pub(super) fn seconds(name: &str, text: &str) -> Result<Duration, String> {
    let seconds = text.parse::<u32>().map_err(|_| format!("{name} {text}: expected a number of seconds"))?;
    Ok(Duration::from_secs(seconds.into()))
}

pub fn switch(name: &str, text: &str) -> Result<bool, String> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err(format!("{name} {text}: expected on, off")),
    }
}

pub(super) fn restore(name: &str, text: &str) -> Result<RestoreAfterLoss, String> {
    match text {
        "never" => Ok(RestoreAfterLoss::Never),
        "alone" => Ok(RestoreAfterLoss::Alone),
        "shared" => Ok(RestoreAfterLoss::Shared),
        _ => Err(format!("{name} {text}: expected never, alone or shared")),
    }
}

pub(super) fn parse<T: FromStr<Err = InvalidOption>>(name: &str, text: &str) -> Result<T, String> {
    text.parse().map_err(|error| format!("{name} {text}: {error}"))
}
