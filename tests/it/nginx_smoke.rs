//! The real nginx that other tests compare with starts and takes the client's address from a
//! header.

use crate::support::{Nginx, http, require_nginx};

#[tokio::test]
async fn real_nginx_takes_the_client_address_from_a_header() {
    require_nginx!();
    let nginx = Nginx::start(
        "server {
            listen 127.0.0.1:@front@;
            set_real_ip_from 127.0.0.1;
            real_ip_header X-Real-IP;
            return 200 $remote_addr;
        }",
    )
    .await;
    for client in ["203.0.113.9", "2001:db8::1", "::ffff:192.168.1.10"] {
        let response = http::get(nginx.address("front"), "/", &[("X-Real-IP", client)]).await.unwrap();
        assert_eq!((response.status(), response.text()), (200, client));
    }
}
