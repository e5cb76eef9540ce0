//! A client without a runtime: counts the lines that match each pattern, at the code-search server.

use nearwire::BlockingClient;
use nearwire_examples::search::Query;

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let server = arguments.next().unwrap_or_else(|| "code".into());
    let mut client = BlockingClient::connect(&server)?;
    for pattern in arguments {
        let ignore_case = false;
        let lines: u64 = client.call(
            "count",
            &Query {
                pattern,
                ignore_case,
            },
        )?;
        println!("{lines}");
    }
    Ok(())
}
