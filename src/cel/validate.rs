//! What can be seen to fail before running: literals of durations, moments and patterns.

use crate::check::Checked;
use crate::issue::Issue;
use crate::library::compile_pattern;
use crate::operators::convert;
use crate::parse::children;
use crate::types::Type;
use crate::value::Value;
use parser::common::ast::{CallExpr, Expr, IdedExpr, LiteralValue};

pub(crate) fn issues(source: &str, checked: &Checked) -> Vec<Issue> {
    let mut found = Vec::new();
    visit(&checked.parsed.root, &mut |call| {
        let Some(argument) = call.args.first() else { return };
        let Expr::Literal(LiteralValue::String(text)) = &argument.expr else { return };
        if !is_valid(&call.func_name, text.inner()) {
            let offset = checked.parsed.places.offset_for(argument.id).map_or(0, |(start, _)| start);
            found.push(Issue::at(source, offset, format!("invalid {} argument", call.func_name)));
        }
    });
    found
}

fn visit(node: &IdedExpr, see: &mut impl FnMut(&CallExpr)) {
    if let Expr::Call(call) = &node.expr {
        see(call);
    }
    children(&node.expr).into_iter().for_each(|child| visit(child, see));
}

fn is_valid(function: &str, text: &str) -> bool {
    let value = Value::text(text);
    match function {
        "duration" => convert(&value, &Type::Duration).is_ok(),
        "timestamp" => convert(&value, &Type::Timestamp).is_ok(),
        "matches" => compile_pattern(text).is_ok(),
        _ => true,
    }
}
