//! The plugin {{name}}: a source, a sink and a function.

mod lines;
mod numbers;
mod shout;

use mangrove_sdk::{Plugin, RunError};

fn plugin() -> Plugin {
    Plugin::new("{{name}}")
        .source::<numbers::Numbers>("{{symbol}}_numbers")
        .sink::<lines::Lines>("{{symbol}}_lines")
        .function("{{symbol}}_shout", shout::Shout)
}

#[tokio::main]
async fn main() -> Result<(), RunError> {
    plugin().run().await
}

#[cfg(test)]
mod tests {
    use mangrove_sdk::Result;
    use mangrove_sdk::testing::Host;
    use serde_json::json;

    #[tokio::test]
    async fn numbers_become_lines() -> Result {
        let path = std::env::temp_dir().join(format!("{{name}}-{}", std::process::id()));
        let host = Host::start(super::plugin()).await?;
        let source = host.source("{{symbol}}_numbers").config(json!({"interval": 0, "count": 2}));
        let mut source = source.start().await?;
        let sink = host.sink("{{symbol}}_lines").config(json!({"path": path}));
        let mut sink = sink.start().await?;
        for _ in 0..2 {
            let tuple = source.tuple().await?;
            assert_eq!(sink.send(&[tuple.message()]).await?, Ok(()));
        }
        sink.stop().await?;
        host.stop().await?;
        let lines = std::fs::read_to_string(&path)?;
        std::fs::remove_file(&path)?;
        assert_eq!(lines, "[{\"n\":1}]\n[{\"n\":2}]\n");
        Ok(())
    }

    #[tokio::test]
    async fn texts_are_shouted() -> Result {
        let host = Host::start(super::plugin()).await?;
        let shout = host.function("{{symbol}}_shout").start().await?;
        assert_eq!(shout.call(vec![json!("hello")]).await?, json!("HELLO"));
        assert!(shout.call(vec![json!(7)]).await.is_err());
        assert!(shout.validate(vec![]).await.is_err());
        shout.stop().await?;
        host.stop().await
    }
}
