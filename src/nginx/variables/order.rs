//! The order in which `map`, `geo` and `split_clients` are read.

use std::collections::HashMap;

use super::is_name_letter;
use crate::nginx::syntax::{Directive, Word};

/// Orders the blocks so that each follows the blocks whose variables it uses, unless they form a
/// cycle. The work is linear.
pub(super) fn in_order<'d>(blocks: &[&'d Directive]) -> Vec<&'d Directive> {
    let name = |block: &Directive| Some(block.args.last()?.text.strip_prefix('$')?.to_ascii_lowercase());
    let named = blocks.iter().enumerate().filter_map(|(place, block)| Some((name(block)?, place)));
    let places: HashMap<String, usize> = named.collect();
    let uses =
        |block: &Directive| -> Vec<usize> { used(block).filter_map(|name| places.get(&name).copied()).collect() };
    let uses: Vec<_> = blocks.iter().map(|block| uses(block)).collect();
    let mut ordered = Vec::with_capacity(blocks.len());
    let mut has_begun = vec![false; blocks.len()];
    for first in 0..blocks.len() {
        // The blocks that wait for the blocks that they use, and how many of these were visited.
        let mut waiting = Vec::from_iter((!std::mem::replace(&mut has_begun[first], true)).then_some((first, 0)));
        while let Some(last) = waiting.last_mut() {
            let (place, followed) = *last;
            last.1 += 1;
            match uses[place].get(followed) {
                Some(&next) if std::mem::replace(&mut has_begun[next], true) => {}
                Some(&next) => waiting.push((next, 0)),
                None => {
                    ordered.push(blocks[place]);
                    waiting.pop();
                }
            }
        }
    }
    ordered
}

/// Returns the names of the variables that a block uses, in lower case.
fn used(block: &Directive) -> impl Iterator<Item = String> {
    let results = block.block.iter().flatten().flat_map(|line| {
        // A group of the line's expression hides the variable of the same name.
        let key = if line.name.text.starts_with('~') { line.name.text.to_ascii_lowercase() } else { String::new() };
        line.args.iter().flat_map(variables).filter(move |name| key.is_empty() || !key.contains(&format!("<{name}>")))
    });
    block.args.iter().rev().skip(1).flat_map(variables).chain(results)
}

fn variables(word: &Word) -> impl Iterator<Item = String> {
    word.text.split('$').skip(1).map(|rest| {
        let rest = rest.strip_prefix('{').unwrap_or(rest);
        rest[..rest.find(|c| !is_name_letter(c)).unwrap_or(rest.len())].to_ascii_lowercase()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nginx::syntax::Parser;

    #[test]
    fn a_block_follows_those_that_it_uses() {
        let chain = (0..1000).map(|number| format!("map ${{v{}}} $v{number} {{ default 1; }}\n", number + 1));
        let text = chain.collect::<String>()
            + "map $b $c { default $a; ~(?<d>.) $d; } map $a $b { default 1; } map $c $d { default 1; } geo $v1000 { default 1; }";
        let blocks = Parser::default().text("front.conf", &text).unwrap();
        let names = |blocks: Vec<&Directive>| -> Vec<String> {
            blocks.iter().map(|block| block.args.last().unwrap().text.clone()).collect()
        };
        let ordered = names(in_order(&blocks.iter().collect::<Vec<_>>()));
        let reversed = (0..=1000).rev().map(|number| format!("$v{number}"));
        assert_eq!(ordered, reversed.chain(["$b", "$c", "$d"].map(str::to_owned)).collect::<Vec<_>>());
    }
}
