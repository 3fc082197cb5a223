//! The directives of httpd that are not supported: those without effect here, and those that are
//! errors.

use crate::httpd::syntax::{Directive, Fault, did_you_mean};

/// The directives that are supported, in lower case.
const READ: &str = "
    <location <locationmatch <proxy <proxymatch <virtualhost <directory <directorymatch <files <filesmatch <ifdefine
    <ifmodule <ifversion <iffile <limit <limitexcept <requireall <requireany <requirenone <if <macro allow authmerging balancermember define deny header
    include includeoptional listen loadmodule order proxyaddheaders proxypass proxypassmatch proxypassreverse
    proxypassreversecookiedomain proxypassreversecookiepath proxypreservehost proxyrequests proxyset proxytimeout
    redirect redirectmatch redirectpermanent redirecttemp remoteipheader remoteipinternalproxy remoteiptrustedproxy
    requestheader require rewriteengine rewriterule rewriteoptions satisfy serveralias servername serverroot setenv
    sslcertificatechainfile sslcertificatefile sslcertificatekeyfile sslengine sslproxyengine sslproxycheckpeername
    sslproxyverify sslproxycacertificatefile rewritecond sslproxycheckpeercn sslproxycheckpeerexpire timeout undefine undefmacro
    use";

/// Directives that do not change responses of nodes: processes, logs, files, buffers, compression,
/// environment. An asterisk matches any suffix of a name.
const NO_EFFECT: &str = "
    acceptfilter acceptpathinfo accessfilename action addalt* addcharset adddefaultcharset adddescription addencoding
    addhandler addicon* addlanguage addmoduleinfo addoutputfilterbytype addtype alias aliasmatch aliasp*
    allowencodedslashes allowoverride allowoverridelist asyncrequestworkerfactor balancergrowth
    balancerpersist brotli* browsermatch* bufferedlogs buffersize cachedefaultexpire cachedetailheader cachedir* cachedisable
    cachefile cacheheader cacheignore* cachekeybaseurl cachelastmodifiedfactor cachelock* cachemax* cachemin*
    cachenegotiateddocs cachequickhandler cacheread* cacheroot cachesocache* cachestale* cachestore* cgi* check* chrootdir contentdigest cookiedomain cookieexpires
    cookiehttponly cookiename cookiesamesite cookiesecure cookiestyle coredumpdirectory customlog
    defaulticon defaultlanguage defaultruntimedir dav* dbd* defaulttype deflate* directory* documentroot dumpio* enable* errordocument
    errorlog errorlogformat extendedstatus extfilter* fallbackresource fancyindexing fileetag filter* flush* forcelanguagepriority
    forcetype forensiclog globallog gracefulshutdowntimeout group h2* headername heartbeat* hostnamelookups
    httpprotocoloptions identity* imap* index* keepalive keepalivetimeout keptbodysize lang* ldapcacheentries ldapcachettl
    ldapopcacheentries ldapopcachettl ldapsharedcachefile ldapsharedcachesize limitinternalrecursion limitrequestbody limitrequestf*
    limitrequestl* limitxml* listenb* listenc* listent* loadf* logf* logi* logl* logm* luacodecache luainherit luapackage*
    luaroot luascope macro* max* mem* mergeslashes
    mergetrailers meta* mime* min* modemstandard modmimeusepathinfo mpm* multiviewsmatch mutex* namevirtualhost noproxy options
    passenv php_* pidfile port protocolecho protocols protocolshonororder proxy100continue
    proxybadheader proxydomain proxyfcgi* proxyftp* proxyhc* proxyhtmlbufsize proxyhtmlcharsetout proxyhtmldoctype
    proxyhtmlevents proxyhtmlextended proxyhtmlfixups proxyhtmlinterp proxyhtmllinks proxyhtmlmeta proxyhtmlstripcomments
    proxyhtmlurlmap proxyiobuffer* proxyreceive* proxyscgi* proxystatus proxyvia
    proxywebsocketfallbacktoproxyhttp qualifyredirecturl readbuffersize readmename receivebuffersize redirectrelative
    redis* reflectorheader registerhttpmethod removecharset removeencoding removehandler
    removeinputfilter removelanguage removeoutputfilter removetype requestreadtimeout rewritebase rewritemap
    rlimit* scoreboardfile script* seerequesttail sendbuffersize serveradmin serverlimit
    serversignature servertokens setenvif setenvifexpr setenvifnocase ssi* sslca* sslciphersuite sslcompression sslcryptodevice
    sslfips sslhonorcipherorder sslinsecurerenegotiation sslocsp* sslopensslconfcmd ssloptions sslpassphrasedialog
    sslprotocol sslproxyciphersuite sslproxyprotocol sslproxyverifydepth sslrandom* sslrenegbuffersize sslsession*
    sslsrp* sslstapling* sslusername sslusestapling sslverifydepth sslvhostsnipolicy startservers startthreads
    ssllog* suexec* thread* traceenable transferlog typesconfig unsetenv user userdir virtualscript* watchdoginterval xbithack";

/// Unsupported directives that would change a response of a node or refuse a client: the prefix of
/// the names, and what to write instead.
const REFUSED: &[(&str, &str)] = &[
    ("addinputfilter", "without filters: bodies pass as they are"),
    ("addoutputfilter", "without filters: bodies pass as they are"),
    ("allowconnect", "ProxyRequests Off: this is no forward proxy"),
    (
        "allowmethods",
        "<Location> with Require all denied for what no client may call; Kylin's own calls are closed without it",
    ),
    ("anonymous", KYLIN_ASKS),
    ("auth", KYLIN_ASKS),
    ("balancerinherit", "balancers with different names"),
    ("cache", "the result cache of Kylin; equal queries at the same time are executed once (--single-flight)"),
    ("charset", "without filters: bodies pass as they are"),
    ("cookie", "the option --sessions cookie"),
    ("expires", "Header set Cache-Control \"max-age=SECONDS\""),
    ("inputsed", "without filters: bodies pass as they are"),
    ("ldap", KYLIN_ASKS),
    ("outputsed", "without filters: bodies pass as they are"),
    ("proxyblock", "Require not ip for clients"),
    ("proxyerroroverride", "ProxyErrorOverride Off: clients of Kylin read its error messages"),
    ("proxyexpress", "<VirtualHost> with ProxyPass for each name"),
    ("proxyhtml", "ProxyPass /kylin balancer://kylin/kylin: the pages of Kylin know only this path"),
    ("proxyinherit", "ProxyPass in each <VirtualHost>"),
    ("proxymaxforwards", "without it"),
    ("proxypassinherit", "ProxyPass in each <VirtualHost>"),
    ("proxypassinterpolateenv", "${NAME} with Define, or <VirtualHost> for each name"),
    ("proxyremote", "members that are reached directly"),
    ("regexdefaultoptions", "(?i) and its like in the expressions for which it is meant"),
    ("remoteipproxyprotocol", "send X-Forwarded-For, and RemoteIPTrustedProxy for the balancer in front"),
    ("remoteip", "RemoteIPHeader X-Forwarded-For, and RemoteIPTrustedProxy NETWORK"),
    ("serverpath", "ServerName and ServerAlias: clients name their host"),
    ("session", "the option --sessions"),
    ("sethandler", "ProxyPass for what goes to the nodes; --admin for the state of the balancers"),
    ("setinputfilter", "without filters: bodies pass as they are"),
    ("setoutputfilter", "without filters: bodies pass as they are"),
    ("sslrequire", "Listen without https only where clients need no TLS"),
    ("sslstrictsnivhostcheck", "SSLStrictSNIVHostCheck Off, and Require in the first <VirtualHost> of the port"),
    ("sslverify", "a server in front that asks clients for certificates"),
    ("proxysourceaddress", "a route of the system for the address"),
    ("sslproxy", "SSLProxyVerify and SSLProxyCACertificateFile"),
    ("casefilter", "without filters: bodies pass as they are"),
    ("protocol", "http or https in Listen"),
    ("stricthostcheck", "a first <VirtualHost> with <Location /> and Require all denied, which gets the unknown hosts"),
    ("substitute", "without filters: bodies pass as they are"),
    ("usecanonical", "UseCanonicalName Off: name and port are those that the client names"),
    ("virtualdocumentroot", "<VirtualHost> with ProxyPass for each name"),
    ("xml2", "without filters: bodies pass as they are"),
    ("error", "the file without this line"),
    ("lua", WITHOUT_LUA),
    ("<lua", WITHOUT_LUA),
    ("md", CERTIFICATES),
    ("<md", CERTIFICATES),
    ("<auth", KYLIN_ASKS),
];

/// The values that turn a directive of [`REFUSED`] off.
const OFF: &[(&str, &[&str])] = &[
    ("allowmethods", &["reset"]),
    ("authtype", &["none"]),
    ("balancerinherit", &["on"]),
    ("cookietracking", &["off"]),
    ("expiresactive", &["off"]),
    ("protocol", &["http"]),
    ("proxyerroroverride", &["off"]),
    ("proxyhtmlenable", &["off"]),
    ("proxyinherit", &["on"]),
    ("proxymaxforwards", &["-1"]),
    ("proxypassinherit", &["on"]),
    ("proxypassinterpolateenv", &["off"]),
    ("remoteipproxyprotocol", &["off"]),
    ("session", &["off"]),
    ("sethandler", &["none", "default-handler"]),
    ("setinputfilter", &["none"]),
    ("setoutputfilter", &["none"]),
    ("sslproxycarevocationcheck", &["none"]),
    ("sslstrictsnivhostcheck", &["off"]),
    ("sslverifyclient", &["none"]),
    ("stricthostcheck", &["off"]),
    ("usecanonicalname", &["off"]),
    ("usecanonicalphysicalport", &["off"]),
];

const KYLIN_ASKS: &str = "no password in front of the nodes: Kylin asks for one itself; Require ip keeps networks out";

const WITHOUT_LUA: &str = "no Lua: Require, RewriteRule and RequestHeader for what it decides";

/// What to write instead of the variable `no-proxy`, which makes mod_proxy leave a request to other
/// modules.
pub const WITHOUT_PROXY: &str = "ProxyPass PATH !, in front of the other ProxyPass lines";

const CERTIFICATES: &str = "SSLCertificateFile and SSLCertificateKeyFile with the files of a client of ACME";

/// Returns whether httpd has the directive or section.
pub fn is_known(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    is_read(&name) || has_no_effect(&name) || instead_of(&name).is_some()
}

fn is_read(name: &str) -> bool {
    READ.split_whitespace().any(|known| known == name)
}

fn has_no_effect(name: &str) -> bool {
    NO_EFFECT.split_whitespace().any(|known| match known.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => known == name,
    })
}

fn instead_of(name: &str) -> Option<&'static str> {
    REFUSED.iter().find(|(start, _)| name.starts_with(start)).map(|(_, instead)| *instead)
}

/// Returns why an unsupported directive has no effect; empty if its name is explanation enough.
pub fn no_effect(directive: &Directive) -> Result<&'static str, Fault> {
    let name = directive.name.text.to_ascii_lowercase();
    let written = &directive.name.text;
    if name == "setoutputfilter" && directive.args.len() == 1 && is_compression(&directive.args[0].text) {
        return Ok("nodes compress themselves");
    }
    if let ([value], Some((_, values))) = (&directive.args[..], OFF.iter().find(|(known, _)| *known == name))
        && values.iter().any(|off| value.text.eq_ignore_ascii_case(off))
    {
        return Ok("turned off here too");
    }
    // `SetEnv` sets its variables after mod_proxy has read them.
    if (name.starts_with("setenvif") || name.starts_with("browsermatch"))
        && let Some(variable) = directive.args.iter().find(|word| sets_no_proxy(&word.text))
    {
        return Err(variable.fault(format!("the variable no-proxy of {written} is not supported"), WITHOUT_PROXY));
    }
    if has_no_effect(&name) {
        return Ok(match name.as_str() {
            "alias" | "aliasmatch" | "scriptalias" | "scriptaliasmatch" | "documentroot" | "userdir"
            | "fallbackresource" | "directoryindex" => "files are not served: 404 where no ProxyPass matches",
            "limitrequestbody" => "httpd does not limit the bodies of proxied requests",
            "errordocument" => "errors of the front end are in Kylin's form",
            "filterprovider" if directive.args.get(1).is_some_and(|filter| !is_compression(&filter.text)) => {
                return Err(
                    directive.fault(format!("{written} is not supported: it changes responses"), "without filters")
                );
            }
            "addoutputfilterbytype" if !directive.args.iter().all(is_filter_of_compression) => {
                return Err(
                    directive.fault(format!("{written} is not supported: it changes responses"), "without filters")
                );
            }
            _ => "",
        });
    }
    if is_read(&name) {
        return Err(directive.fault(format!("{written} may not stand here"), place_of(&name)));
    }
    if let Some(instead) = instead_of(&name) {
        return Err(directive.fault(format!("{written} is not supported"), instead));
    }
    let meant = did_you_mean(written, CAPITALS.into_iter().chain(READ.split_whitespace()));
    let expected = match name.as_str() {
        "upstream" | "server" | "location" | "proxy_pass" | "http" | "events" => {
            "a file of httpd; for one of nginx: --config FILE"
        }
        "frontend" | "backend" | "global" | "defaults" | "listen" => {
            "a file of httpd; for HAProxy see examples/MIGRATING.md"
        }
        name if name.starts_with("jk") => "ProxyPass, and BalancerMember http://HOST:7070, in place of mod_jk",
        _ => "a directive of httpd 2.4",
    };
    Err(directive.fault(format!("unknown directive \"{written}\"{meant}"), expected))
}

/// Returns whether `NAME`, `NAME=VALUE` or `NAME:VALUE` sets the variable `no-proxy`.
pub fn sets_no_proxy(variable: &str) -> bool {
    variable.split(['=', ':']).next().is_some_and(|name| name.eq_ignore_ascii_case("no-proxy"))
}

fn is_filter_of_compression(word: &crate::httpd::syntax::Word) -> bool {
    // Content types follow the filters.
    word.text.contains('/') || is_compression(&word.text)
}

fn is_compression(filters: &str) -> bool {
    filters
        .split(';')
        .all(|filter| ["deflate", "brotli_compress", "inflate"].iter().any(|known| filter.eq_ignore_ascii_case(known)))
}

/// The usual spelling of names, for suggestions.
const CAPITALS: [&str; 16] = [
    "BalancerMember",
    "Define",
    "Header",
    "Include",
    "Listen",
    "ProxyPass",
    "ProxyPassMatch",
    "ProxyPassReverse",
    "ProxyPassReverseCookieDomain",
    "ProxyPassReverseCookiePath",
    "ProxyPreserveHost",
    "ProxySet",
    "ProxyTimeout",
    "RequestHeader",
    "ServerAlias",
    "ServerName",
];

fn place_of(name: &str) -> &'static str {
    match name {
        "balancermember" => {
            "BalancerMember in <Proxy balancer://NAME>, or BalancerMember balancer://NAME URL outside of it"
        }
        "servername" | "serveralias" => "ServerName in <VirtualHost> or outside of sections",
        "<virtualhost" | "listen" | "loadmodule" => "outside of sections",
        "<limit" | "<limitexcept" => "in <Location> or <Proxy>",
        _ => "in <VirtualHost> or outside of sections",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_is_in_no_other_list() {
        for name in READ.split_whitespace() {
            assert!(!has_no_effect(name), "{name}");
        }
    }
}
