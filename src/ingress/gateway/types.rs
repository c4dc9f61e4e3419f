//! Gateway API's kinds (`gateway.networking.k8s.io`), as much of them as is decided by. Users install their
//! definitions; what this proxy does not know of them is left alone, since status alone is written.

use api::Object;
use api::k8s::{ClusterResourceScope, NamespaceResourceScope, Resource};
use api::meta::{LabelSelector, ObjectMeta};
use serde::Deserialize;
use serde_json::Value;

/// The group of all of them.
pub(crate) const GROUP: &str = "gateway.networking.k8s.io";

/// An object of a kind: metadata, a spec, and the status as it is.
macro_rules! kind {
    ($name:ident, $version:literal, $plural:literal, $scope:ty, $spec:ty) => {
        kind!($name, stringify!($name), $version, $plural, $scope, $spec);
    };
    ($name:ident, $kind:expr, $version:literal, $plural:literal, $scope:ty, $spec:ty) => {
        #[derive(Clone, Debug, Default, Deserialize)]
        #[serde(default)]
        pub(crate) struct $name {
            pub(crate) metadata: ObjectMeta,
            pub(crate) spec: $spec,
            pub(crate) status: Value,
        }

        api::object_of_definition!($name, "gateway.networking.k8s.io", $version, $kind, $plural, $scope);
    };
}

kind!(GatewayClass, "v1", "gatewayclasses", ClusterResourceScope, GatewayClassSpec);
kind!(Gateway, "v1", "gateways", NamespaceResourceScope, GatewaySpec);
kind!(HTTPRoute, "v1", "httproutes", NamespaceResourceScope, RouteSpec);
kind!(GRPCRoute, "v1", "grpcroutes", NamespaceResourceScope, RouteSpec);
kind!(TLSRoute, "v1", "tlsroutes", NamespaceResourceScope, RouteSpec);
// As it was before; the fields that are read have not changed.
kind!(TLSRouteAlpha3, "TLSRoute", "v1alpha3", "tlsroutes", NamespaceResourceScope, RouteSpec);
kind!(TLSRouteAlpha2, "TLSRoute", "v1alpha2", "tlsroutes", NamespaceResourceScope, RouteSpec);
kind!(ReferenceGrant, "v1beta1", "referencegrants", NamespaceResourceScope, GrantSpec);

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct GatewayClassSpec {
    pub(crate) controller_name: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct GatewaySpec {
    pub(crate) gateway_class_name: String,
    pub(crate) listeners: Vec<Listener>,
    pub(crate) addresses: Vec<AskedAddress>,
}

/// An address that a Gateway is to have.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct AskedAddress {
    #[serde(rename = "type")]
    pub(crate) kind: Option<String>,
    pub(crate) value: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Listener {
    pub(crate) name: String,
    pub(crate) hostname: Option<String>,
    pub(crate) port: u16,
    pub(crate) protocol: String,
    pub(crate) tls: Option<ListenerTls>,
    pub(crate) allowed_routes: AllowedRoutes,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ListenerTls {
    pub(crate) mode: Option<String>,
    pub(crate) certificate_refs: Vec<Reference>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct AllowedRoutes {
    pub(crate) namespaces: AllowedNamespaces,
    pub(crate) kinds: Vec<RouteKind>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct AllowedNamespaces {
    pub(crate) from: Option<String>,
    pub(crate) selector: Option<LabelSelector>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct RouteKind {
    pub(crate) group: Option<String>,
    pub(crate) kind: String,
}

/// A reference to an object, maybe of another namespace.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Reference {
    pub(crate) group: Option<String>,
    pub(crate) kind: Option<String>,
    pub(crate) namespace: Option<String>,
    pub(crate) name: String,
    pub(crate) section_name: Option<String>,
    pub(crate) port: Option<i32>,
}

/// A route of any kind.
#[derive(Clone, Copy)]
pub(crate) struct Any<'a> {
    pub(crate) kind: &'static str,
    pub(crate) version: &'static str,
    pub(crate) plural: &'static str,
    pub(crate) metadata: &'a ObjectMeta,
    pub(crate) spec: &'a RouteSpec,
    pub(crate) status: &'a Value,
}

impl Any<'_> {
    pub(crate) fn namespace(&self) -> &str {
        self.metadata.namespace.as_deref().unwrap_or_default()
    }

    pub(crate) fn name(&self) -> &str {
        self.metadata.name.as_deref().unwrap_or_default()
    }

    pub(crate) fn is_grpc(&self) -> bool {
        self.kind == GRPCRoute::KIND
    }

    /// Whether it is one of streams.
    pub(crate) fn is_tls(&self) -> bool {
        self.kind == TLSRoute::KIND
    }
}

/// A kind of routes.
pub(crate) trait AnyRoute: Object {
    fn any(&self) -> Any<'_>;
}

macro_rules! routes {
    ($($name:ident),*) => {
        $(impl AnyRoute for $name {
            fn any(&self) -> Any<'_> {
                Any {
                    kind: Self::KIND,
                    version: Self::VERSION,
                    plural: Self::URL_PATH_SEGMENT,
                    metadata: &self.metadata,
                    spec: &self.spec,
                    status: &self.status,
                }
            }
        })*
    };
}

routes!(HTTPRoute, GRPCRoute, TLSRoute, TLSRouteAlpha3, TLSRouteAlpha2);

/// What routes of all kinds say; matches of a method differ, and those of TLS have none.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct RouteSpec {
    /// As they are, since the status repeats them.
    pub(crate) parent_refs: Vec<Value>,
    pub(crate) hostnames: Vec<String>,
    pub(crate) rules: Vec<RouteRule>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct RouteRule {
    pub(crate) matches: Vec<RouteMatch>,
    pub(crate) filters: Vec<Filter>,
    pub(crate) backend_refs: Vec<BackendRef>,
    pub(crate) timeouts: Timeouts,
    pub(crate) retry: Option<Retry>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct RouteMatch {
    pub(crate) path: Option<Typed>,
    pub(crate) headers: Vec<Named>,
    pub(crate) query_params: Vec<Named>,
    pub(crate) method: Option<MethodMatch>,
}

/// A method of HTTP, or of gRPC.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum MethodMatch {
    Http(String),
    Grpc(GrpcMethod),
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct GrpcMethod {
    #[serde(rename = "type")]
    pub(crate) kind: Option<String>,
    pub(crate) service: Option<String>,
    pub(crate) method: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Typed {
    #[serde(rename = "type")]
    pub(crate) kind: Option<String>,
    pub(crate) value: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Named {
    #[serde(rename = "type")]
    pub(crate) kind: Option<String>,
    pub(crate) name: String,
    pub(crate) value: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Filter {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) request_header_modifier: Option<Modifier>,
    pub(crate) response_header_modifier: Option<Modifier>,
    pub(crate) request_redirect: Option<RedirectFilter>,
    pub(crate) url_rewrite: Option<Rewrite>,
    pub(crate) request_mirror: Option<MirrorFilter>,
    pub(crate) cors: Option<CorsFilter>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct CorsFilter {
    pub(crate) allow_origins: Vec<String>,
    pub(crate) allow_credentials: Option<bool>,
    pub(crate) allow_methods: Vec<String>,
    pub(crate) allow_headers: Vec<String>,
    pub(crate) expose_headers: Vec<String>,
    pub(crate) max_age: Option<u32>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Modifier {
    pub(crate) set: Vec<Named>,
    pub(crate) add: Vec<Named>,
    pub(crate) remove: Vec<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct RedirectFilter {
    pub(crate) scheme: Option<String>,
    pub(crate) hostname: Option<String>,
    pub(crate) port: Option<u16>,
    pub(crate) path: Option<PathModifier>,
    pub(crate) status_code: Option<u16>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Rewrite {
    pub(crate) hostname: Option<String>,
    pub(crate) path: Option<PathModifier>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct PathModifier {
    pub(crate) replace_full_path: Option<String>,
    pub(crate) replace_prefix_match: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct MirrorFilter {
    pub(crate) backend_ref: Reference,
    pub(crate) percent: Option<u32>,
    pub(crate) fraction: Option<Fraction>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Fraction {
    pub(crate) numerator: u32,
    pub(crate) denominator: Option<u32>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct BackendRef {
    #[serde(flatten)]
    pub(crate) to: Reference,
    pub(crate) weight: Option<u32>,
    pub(crate) filters: Vec<Filter>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Timeouts {
    pub(crate) request: Option<String>,
    pub(crate) backend_request: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Retry {
    pub(crate) codes: Vec<u16>,
    pub(crate) attempts: Option<u32>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct GrantSpec {
    pub(crate) from: Vec<GrantFrom>,
    pub(crate) to: Vec<GrantTo>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct GrantFrom {
    pub(crate) group: String,
    pub(crate) kind: String,
    pub(crate) namespace: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct GrantTo {
    pub(crate) group: String,
    pub(crate) kind: String,
    pub(crate) name: Option<String>,
}
