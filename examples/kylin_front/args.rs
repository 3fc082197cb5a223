use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::thread::available_parallelism;

use kylin_lb::server::Listen;

pub const HELP: &str = "\
A load-balancing front end for Apache Kylin.

Usage: kylin_front [OPTIONS]

  --config FILE   an nginx configuration: upstreams, servers, locations
  --listen ADDR   where to listen, and nowhere else, as the first address of the configuration: 127.0.0.1:8080, [::]:80,
                  unix:/path
  --threads N     accept loops, each on a thread of its own (default: one per core)
  --demo N        N demo Kylin nodes in this process (default: 3 when there is no configuration)
  --check         say what was understood, and exit
  --help          print this
";

#[derive(Debug)]
pub struct Args {
    pub config: Option<PathBuf>,
    pub listen: Option<Listen>,
    pub threads: usize,
    pub demo: usize,
    pub check: bool,
}

impl Args {
    /// None when help was asked for.
    pub fn parse(mut words: impl Iterator<Item = String>) -> Result<Option<Self>, String> {
        let mut args = Args {
            config: None,
            listen: None,
            threads: available_parallelism().map_or(1, NonZeroUsize::get),
            demo: 0,
            check: false,
        };
        let mut demo = None;
        while let Some(word) = words.next() {
            let (name, mut value) = match word.split_once('=') {
                Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
                None => (word, None),
            };
            let mut value = || value.take().or_else(|| words.next()).ok_or(format!("{name} wants a value"));
            match name.as_str() {
                "--config" => args.config = Some(value()?.into()),
                "--listen" => args.listen = Some(value()?.parse().map_err(|error| format!("--listen: {error}"))?),
                "--threads" => args.threads = count(&name, &value()?)?,
                "--demo" => demo = Some(count(&name, &value()?)?),
                "--check" => args.check = true,
                "--help" | "-h" => return Ok(None),
                _ => return Err(format!("unknown option {name}")),
            }
        }
        if args.config.is_some() && demo.is_some() {
            return Err("--config and --demo exclude each other: a configuration names its own nodes".into());
        }
        args.demo = demo.unwrap_or(3);
        Ok(Some(args))
    }
}

fn count(name: &str, text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(count @ 1..=1024) => Ok(count),
        _ => Err(format!("{name} {text}: expected a number from 1 to 1024")),
    }
}
