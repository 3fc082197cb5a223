//! `auth_basic` and `auth_basic_user_file`: the password that a location requires.

use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;

use crate::nginx::directives::catalogue::arg;
use crate::nginx::directives::remarks::Remarks;
use crate::nginx::htpasswd::PasswordFile;
use crate::nginx::syntax::{Directive, Fault};
use crate::nginx::variables::{Maps, Scope, Template};

/// The `auth_basic` and `auth_basic_user_file` of a block.
#[derive(Debug, Clone, Default)]
pub(crate) struct AuthBasic {
    /// The realm; `None` if it is neither written nor inherited.
    realm: Option<Realm>,
    file: Option<Arc<PasswordFile>>,
}

#[derive(Debug, Clone)]
enum Realm {
    Off,
    /// The realm, which clients show when they ask for the password.
    Named(Template),
}

impl AuthBasic {
    pub(super) fn read_realm(&mut self, directive: &Directive, maps: &Maps) -> Result<(), Fault> {
        let word = arg(directive)?;
        self.realm = Some(match word.text.as_str() {
            "off" => Realm::Off,
            _ if !cfg!(feature = "htpasswd") => {
                let message = "\"auth_basic\" is not supported by this build";
                return Err(directive
                    .span()
                    .unsupported(message, "a build with the feature htpasswd; or auth_basic off;"));
            }
            _ => Realm::Named(Template::for_header(word, maps)?),
        });
        Ok(())
    }

    pub(super) fn read_file(
        &mut self,
        directive: &Directive,
        folder: Option<&Path>,
        remarks: &mut Remarks<'_>,
    ) -> Result<(), Fault> {
        let word = arg(directive)?;
        if word.text.is_empty() || word.text.contains('$') {
            return Err(word.invalid("file of passwords", "the name of a file, without variables"));
        }
        let path = folder.map_or_else(|| word.text.clone().into(), |folder| folder.join(&word.text));
        let file = PasswordFile::new(path);
        let shown = file.path().display();
        match file.unknown_forms() {
            Err(error) => {
                let text = format!("auth_basic_user_file {shown}: {error}; without it no request is served");
                remarks.note(word.span, text);
            }
            Ok(users) if !users.is_empty() => {
                let text = format!(
                    "auth_basic_user_file: users whose password has another form than those of htpasswd -m, -B, -s, openssl passwd -5, -6 and {{SSHA}}, and who are refused: {}",
                    users.join(" ")
                );
                remarks.note(word.span, text);
            }
            Ok(_) => {}
        }
        self.file = Some(Arc::new(file));
        Ok(())
    }

    /// Returns the realm and the file if a request needs a password. It needs none if the variables
    /// of the realm evaluate to `off`.
    pub(crate) fn question(&self, scope: &Scope<'_>) -> Option<(Cow<'_, [u8]>, &Arc<PasswordFile>)> {
        let (Some(Realm::Named(realm)), Some(file)) = (&self.realm, &self.file) else { return None };
        Some((realm.value(scope), file)).filter(|(realm, _)| **realm != *b"off")
    }

    /// Returns whether some requests need a password.
    pub(crate) fn may_ask(&self) -> bool {
        matches!((&self.realm, &self.file), (Some(Realm::Named(_)), Some(_)))
    }

    /// Returns whether there is a realm but no file, so that nginx requires no password.
    pub(crate) fn lacks_file(&self) -> bool {
        matches!((&self.realm, &self.file), (Some(Realm::Named(_)), None))
    }
}
