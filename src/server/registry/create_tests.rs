//! The order in which new objects are checked, and where they are placed.

use super::{Context, Records, Registry, Warnings};
use crate::auth::{Authorizer, ServiceAccountKeys, User};
use crate::strategies::{AddressPool, Strategies};
use api::kinds::by_kind;
use base::Supervisor;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use serde_json::{Value, json};
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;

async fn registry(folder: &Path, supervisor: &Supervisor) -> Registry {
    std::fs::create_dir_all(folder).unwrap();
    let records = Records::open(store::Config::new(folder.join("state.db")), supervisor).await.unwrap();
    let addresses = vec![AddressPool { network: Ipv4Addr::new(10, 43, 0, 0).into(), bits: 16 }];
    let strategies = Strategies::new(&records, addresses, 30_000..=32_767);
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new()).unwrap();
    let keys = Arc::new(ServiceAccountKeys::new(&[pkcs8.as_ref().to_vec()], "https://issuer").unwrap());
    let authorizer = Arc::new(Authorizer::new(records.clone()));
    Registry::new(records, strategies, keys, authorizer, supervisor.clone())
}

#[tokio::test]
async fn versions_are_refused_last_and_namespaces_of_what_is_in_none_are_left_out() {
    let folder = std::env::temp_dir().join(format!("knarr-create-{}", std::process::id()));
    let supervisor = Supervisor::new();
    let registry = registry(&folder, &supervisor).await;
    let kind = by_kind("networking.k8s.io/v1", "IngressClass").unwrap();
    let context = Context::of(User::new("admin", &["system:masters"]), Warnings::default());
    let create = async |name: &str, version: &str| {
        let object = json!({"apiVersion": "networking.k8s.io/v1", "kind": "IngressClass",
            "metadata": {"name": name, "namespace": "elsewhere", "resourceVersion": version},
            "spec": {"controller": "example.com/c"}});
        registry.create(kind, "", object, &context).await
    };
    assert_eq!(create("Bad name", "7").await.unwrap_err().code, 422);
    let versioned = create("web", "7").await.unwrap_err();
    assert_eq!(
        (versioned.code, versioned.message.as_str()),
        (500, "resourceVersion should not be set on objects to be created")
    );
    let made: Value = serde_json::from_slice(&create("web", "0").await.unwrap().object).unwrap();
    assert_eq!((&made["metadata"]["name"], &made["metadata"]["namespace"]), (&json!("web"), &Value::Null));
    supervisor.drain().await;
    std::fs::remove_dir_all(&folder).unwrap();
}
