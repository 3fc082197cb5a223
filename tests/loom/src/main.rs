//! Runs the models of the crate's concurrent code, each in every order in which threads can run,
//! with at most three involuntary switches between threads.

mod admission;
#[path = "../../../src/buffer/mod.rs"]
mod buffer;
#[path = "../../../src/client_key.rs"]
mod client_key;
mod clock;
mod endpoint;
mod health;
mod models;
mod observe;
#[path = "../../../src/setting.rs"]
mod setting;
mod sync;

fn main() {
    let word = std::env::args().nth(1).unwrap_or_default();
    // For the timers of the crate, which never fire here.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let _context = runtime.enter();
    let mut run = 0;
    for (name, model) in models::ALL.iter().filter(|(name, _)| name.contains(&word)) {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(3);
        builder.max_branches = 10_000;
        println!("{name}");
        builder.check(*model);
        run += 1;
    }
    assert!(run > 0, "no model has {word:?} in its name");
    println!("{run} models, each in all orders");
}
