//! One group version that is served elsewhere, and how its servers are reached.

use super::Extension;
use crate::registry::Records;
use crate::services::ServicePort;
use crate::trust;
use api::registration::{APIService, APIServiceSpec};
use base::https::{Connector, Pool};
use rustls::client::ResolvesClientCert;
use std::sync::Arc;

/// A group version that is not this room's.
pub(crate) struct Remote {
    pub(super) spec: APIServiceSpec,
    pub(super) reach: Reach,
}

/// Who serves it.
pub(super) enum Reach {
    /// Another room of this process.
    Here(Extension),
    There(There),
}

/// The servers behind a service.
pub(super) struct There {
    pub(super) service: ServicePort,
    /// Its condition `Available`.
    pub(super) available: bool,
    /// Or why there is none.
    pub(super) way: Result<Arc<Way>, String>,
}

/// How its servers are connected to.
pub(super) struct Way {
    /// For connections that are to be upgraded, which HTTP/2 has no word for.
    pub(super) upgradable: Connector,
    pub(super) pool: Pool,
}

impl Remote {
    /// What an APIService says, if it is not about this server.
    pub(super) fn of(
        object: APIService,
        before: Option<&Arc<Self>>,
        here: Option<Extension>,
        (shown, records): (&Arc<dyn ResolvesClientCert>, &Records),
    ) -> Option<Arc<Self>> {
        let spec = object.spec?;
        let Some(named) = &spec.service else {
            return Some(Arc::new(Self { spec, reach: Reach::Here(here?) }));
        };
        let service = ServicePort::new(named.namespace.as_deref()?, named.name.as_deref()?, named.port);
        let conditions = object.status.iter().flat_map(|status| status.conditions.iter().flatten());
        let mut own = conditions.filter(|condition| condition.type_ == "Available");
        let available = own.any(|condition| condition.status == "True");
        let same = before.filter(|before| before.spec == spec);
        let way = match same.map(|same| (same, &same.reach)) {
            Some((same, Reach::There(there))) if there.available == available => return Some(same.clone()),
            Some((_, Reach::There(there))) => there.way.clone(),
            _ => Way::to(&spec, &service, (shown, records)).map(Arc::new),
        };
        Some(Arc::new(Self { spec, reach: Reach::There(There { service, available, way }) }))
    }

    /// The path of its discovery.
    pub(super) fn root(&self) -> String {
        let version = self.spec.version.as_deref().unwrap_or_default();
        match self.spec.group.as_deref().unwrap_or_default() {
            "" => format!("/api/{version}"),
            group => format!("/apis/{group}/{version}"),
        }
    }
}

impl Way {
    fn to(
        spec: &APIServiceSpec,
        service: &ServicePort,
        (shown, records): (&Arc<dyn ResolvesClientCert>, &Records),
    ) -> Result<Self, String> {
        let verified = spec.insecure_skip_tls_verify != Some(true);
        let bundle = spec.ca_bundle.as_ref().map_or(&[][..], |bundle| &bundle.0);
        let config = trust::showing(shown.clone(), verified.then_some(bundle))?;
        let mut plain = config.clone();
        plain.alpn_protocols.clear();
        let connector = |config| {
            let (tls, server_name) = (Some(Arc::new(config)), Some(service.server_name()));
            service.through(records, Connector { tls, server_name, ..Connector::default() })
        };
        Ok(Self { upgradable: connector(plain), pool: connector(config).pool() })
    }
}
