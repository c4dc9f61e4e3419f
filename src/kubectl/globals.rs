//! The flags that every command takes.

use crate::connection::plugin::Policy;
use clap::Args;
use std::path::PathBuf;

/// Which server, which user, which namespace, and how it is asked. What is "" was not given ([`Global::tidied`]).
#[derive(Args, Clone, Default)]
pub(crate) struct Global {
    /// The user to act as: a name, or a service account's whole name
    #[arg(long = "as", global = true, value_name = "USER")]
    pub(crate) act_as: Option<String>,
    /// A group to act as; may be repeated
    #[arg(long, global = true, value_name = "GROUP")]
    pub(crate) as_group: Vec<String>,
    /// The UID to act as
    #[arg(long, global = true, value_name = "UID")]
    pub(crate) as_uid: Option<String>,
    /// What else is known of the user to act as: KEY=VALUE; may be repeated
    #[arg(long, global = true, value_name = "KEY=VALUE")]
    pub(crate) as_user_extra: Vec<String>,
    /// Where to remember what servers have
    #[arg(long, global = true, value_name = "FOLDER")]
    pub(crate) cache_dir: Option<PathBuf>,
    /// The file with the server's authority
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) certificate_authority: Option<String>,
    /// The file with the client's certificate
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) client_certificate: Option<String>,
    /// The file with the client's key
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) client_key: Option<String>,
    /// The kubeconfig's cluster
    #[arg(long, global = true)]
    pub(crate) cluster: Option<String>,
    /// The kubeconfig's context
    #[arg(long, global = true)]
    pub(crate) context: Option<String>,
    /// Ask for answers that are not compressed
    #[arg(long, global = true)]
    pub(crate) disable_compression: bool,
    /// Do not verify the server's certificate: whoever is between sees and changes everything
    #[arg(long, global = true, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub(crate) insecure_skip_tls_verify: Option<bool>,
    /// The kubeconfig file
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// The file with preferences, or "off" for none
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) kuberc: Option<String>,
    /// Go on only if the server is of this client's version
    #[arg(long, global = true)]
    pub(crate) match_server_version: bool,
    /// The namespace
    #[arg(long, short, global = true)]
    pub(crate) namespace: Option<String>,
    /// The password that goes with --username
    #[arg(long, global = true)]
    pub(crate) password: Option<String>,
    /// How long a request may take, such as 1s, 2m or 3h; 0 for as long as it takes
    #[arg(long, global = true, value_name = "DURATION")]
    pub(crate) request_timeout: Option<String>,
    /// The server's URL
    #[arg(long, short, global = true, value_name = "URL")]
    pub(crate) server: Option<String>,
    /// The name that the server's certificate has, where it is not the URL's
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) tls_server_name: Option<String>,
    /// A bearer token
    #[arg(long, global = true)]
    pub(crate) token: Option<String>,
    /// The kubeconfig's user
    #[arg(long, global = true)]
    pub(crate) user: Option<String>,
    /// The name for servers that know users by passwords
    #[arg(long, global = true)]
    pub(crate) username: Option<String>,
    /// How much to say of requests: 6 to 9, from a line each to all of them
    #[arg(
        long = "v",
        short = 'v',
        global = true,
        value_name = "LEVEL",
        default_value_t = 0,
        hide_default_value = true
    )]
    pub(crate) verbosity: u8,
    /// Fail if the server warned
    #[arg(long, global = true)]
    pub(crate) warnings_as_errors: bool,
    /// Which credential plugins may be run, by the preferences.
    #[arg(skip)]
    pub(crate) policy: Policy,
}

impl Global {
    /// Flags with nothing in them are taken for flags that are not there.
    pub(crate) fn tidied(mut self) -> Self {
        let texts = [
            &mut self.act_as,
            &mut self.as_uid,
            &mut self.certificate_authority,
            &mut self.client_certificate,
            &mut self.client_key,
            &mut self.cluster,
            &mut self.context,
            &mut self.namespace,
            &mut self.password,
            &mut self.server,
            &mut self.tls_server_name,
            &mut self.token,
            &mut self.user,
            &mut self.username,
        ];
        for text in texts {
            *text = text.take().filter(|text| !text.is_empty());
        }
        for path in [&mut self.kubeconfig, &mut self.cache_dir] {
            *path = path.take().filter(|path| !path.as_os_str().is_empty());
        }
        self
    }
}
