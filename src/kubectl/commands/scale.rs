//! `kubectl scale`.

use crate::args::{Files, Scale};
use crate::error::Error;
use crate::output::say;
use crate::session::{MERGE_PATCH, Session};
use crate::target;
use crate::writing::resource_name;
use serde_json::json;

pub(crate) async fn run(session: &Session, args: &Scale) -> Result<(), Error> {
    if args.replicas < 0 {
        return Err(Error::plain(
            "The --replicas=COUNT flag is required, and COUNT must be greater than or equal to 0",
        ));
    }
    for target in target::resolve(session, &args.selection, &Files::default()).await? {
        let names = match &target.name {
            Some(name) => vec![name.clone()],
            None => {
                let list = session.get(&target.path(&args.selection)).await?;
                let items = list["items"].as_array().cloned().unwrap_or_default();
                items.iter().filter_map(|item| item["metadata"]["name"].as_str().map(str::to_owned)).collect()
            }
        };
        for name in names {
            let path = format!("{}/scale", target.resource.object(&target.namespace, &name));
            let mut patch = json!({"spec": {"replicas": args.replicas}});
            if let Some(expected) = args.current_replicas {
                let scale = session.get(&path).await?;
                if scale["spec"]["replicas"] != expected {
                    return Err(Error::plain(format!(
                        "Expected replicas to be {expected}, was {}",
                        scale["spec"]["replicas"]
                    )));
                }
                patch["metadata"] = json!({"resourceVersion": scale["metadata"]["resourceVersion"]});
            }
            session.patch(&path, MERGE_PATCH, &patch).await?;
            say(&format!("{}/{name} scaled\n", resource_name(&target.resource)))?;
        }
    }
    Ok(())
}
