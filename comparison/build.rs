//! The gRPC service that tonic is measured with.

use tonic_build::manual::{Builder, Method, Service};

fn main() {
    let method = |name: &str, route: &str| {
        Method::builder()
            .name(name)
            .route_name(route)
            .input_type("super::Message")
            .output_type("super::Message")
            .codec_path("tonic_prost::ProstCodec")
    };
    let echo = Service::builder()
        .package("comparison")
        .name("Echo")
        .method(method("call", "Call").build())
        .method(
            method("stream", "Stream")
                .client_streaming()
                .server_streaming()
                .build(),
        )
        .build();
    Builder::new().compile(&[echo]);
}
