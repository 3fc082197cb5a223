use super::super::Metastore;
use super::*;

async fn login(node: &KylinNode) -> Read {
    send(node, admin("POST", "/kylin/api/user/authentication"), "{}").await
}

async fn projects_with(node: &KylinNode, cookie: &str) -> StatusCode {
    send(node, at("GET", "/kylin/api/projects").header(header::COOKIE, cookie), "").await.status()
}

#[tokio::test]
async fn a_login_opens_a_session_that_its_cookie_names() {
    let node = KylinNode::new("q1");
    let response = login(&node).await;
    assert_eq!(response.json()["userDetails"]["username"], "ADMIN");
    assert_eq!(response.json()["userDetails"]["authorities"][1]["authority"], "ROLE_ADMIN");
    let line = response.head.headers[header::SET_COOKIE].to_str().unwrap();
    assert!(line.starts_with("JSESSIONID=") && line.ends_with("; Path=/kylin/; HttpOnly"), "{line}");
    let cookie = response.cookie().unwrap();
    assert_eq!(projects_with(&node, &cookie).await, StatusCode::OK);
    let whoami = send(&node, at("GET", "/kylin/api/user/authentication").header(header::COOKIE, cookie), "").await;
    assert_eq!(whoami.json()["userDetails"]["username"], "ADMIN");
    assert_eq!((node.sessions(), node.stats().logins), (1, 1));
}

#[tokio::test]
async fn a_login_renews_the_id_and_ends_the_session_that_came_along() {
    for node in [KylinNode::new("q1"), v5("q1")] {
        let old = login(&node).await.cookie().unwrap();
        let again = admin("POST", "/kylin/api/user/authentication").header(header::COOKIE, &old);
        let new = send(&node, again, "").await.cookie().unwrap();
        assert_ne!(old, new);
        assert_eq!(projects_with(&node, &old).await, StatusCode::UNAUTHORIZED);
        assert_eq!(projects_with(&node, &new).await, StatusCode::OK);
    }
}

#[tokio::test]
async fn basic_without_a_session_makes_one_every_time_and_with_one_none() {
    let node = KylinNode::new("q1");
    let cookie = send(&node, admin("GET", "/kylin/api/projects"), "").await.cookie().unwrap();
    send(&node, admin("GET", "/kylin/api/projects"), "").await;
    assert_eq!((node.sessions(), node.stats().logins), (2, 2));
    let both = admin("GET", "/kylin/api/projects").header(header::COOKIE, cookie);
    assert_eq!(send(&node, both, "").await.cookie(), None);
    assert_eq!((node.sessions(), node.stats().logins), (2, 2));
}

#[tokio::test]
async fn without_credentials_the_login_path_responds_and_others_refuse() {
    let node = KylinNode::new("q1");
    let anonymous = send(&node, at("GET", "/kylin/api/user/authentication"), "").await;
    assert_eq!((anonymous.status(), anonymous.json()), (StatusCode::OK, json!({})));
    let refused = send(&node, at("GET", "/kylin/api/projects"), "").await;
    assert_eq!(refused.status(), StatusCode::UNAUTHORIZED);
    assert!(refused.is_html());
    assert_eq!((node.sessions(), node.stats().unauthorized), (0, 1));
}

#[tokio::test]
async fn wrong_credentials_are_refused_even_where_none_are_needed() {
    for wrong in [&basic("ADMIN", "no"), &basic("UNKNOWN", "KYLIN"), "Basic %%%", "Bearer x"] {
        let node = KylinNode::new("q1");
        let request = at("GET", "/kylin/api/user/authentication").header(header::AUTHORIZATION, wrong);
        assert_eq!(send(&node, request, "").await.status(), StatusCode::UNAUTHORIZED, "{wrong}");
        assert_eq!(node.sessions(), 0);
    }
}

#[tokio::test]
async fn sessions_are_known_to_their_node_only_unless_shared() {
    let metastore = Metastore::new();
    for shared in [false, true] {
        let nodes = ["q1", "q2"].map(|name| KylinNode::new(name).metastore(&metastore).share_sessions(shared));
        let cookie = login(&nodes[0]).await.cookie().unwrap();
        let expected = if shared { StatusCode::OK } else { StatusCode::UNAUTHORIZED };
        assert_eq!(projects_with(&nodes[1], &cookie).await, expected);
        assert_eq!(projects_with(&nodes[0], &cookie).await, StatusCode::OK);
        nodes[0].forget_sessions();
        assert_eq!(projects_with(&nodes[0], &cookie).await, expected);
    }
}

#[tokio::test]
async fn kylin_5_names_its_cookie_after_the_metastore_and_refuses_in_json() {
    let node = v5("q1");
    let response = login(&node).await;
    assert_eq!(response.json()["code"], "000");
    assert_eq!(response.json()["data"]["username"], "ADMIN");
    let line = response.head.headers[header::SET_COOKIE].to_str().unwrap();
    assert!(line.starts_with("ce8a5bd5b23fe84d1894dce1bd9399364ba5af3c7a25f025442c92244c729804="), "{line}");
    assert!(line.ends_with("; Path=/kylin; HttpOnly; SameSite=Lax"), "{line}");
    assert_eq!(projects_with(&node, &response.cookie().unwrap()).await, StatusCode::OK);
    let refused = send(&node, at("GET", "/kylin/api/projects"), "").await;
    assert_eq!(refused.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(refused.json()["code"], "999");

    let other = v5("q2").metastore(&Metastore::new().identity("other@jdbc,url=x", "0123"));
    assert!(login(&other).await.cookie().unwrap().starts_with("0123="));
}

#[tokio::test]
async fn logging_out_ends_the_session_and_deletes_the_cookie() {
    let node = KylinNode::new("q1");
    let cookie = login(&node).await.cookie().unwrap();
    let out = at("GET", "/kylin/j_spring_security_logout").header(header::COOKIE, &cookie);
    let response = send(&node, out, "").await;
    assert_eq!(response.status(), StatusCode::FOUND);
    assert_eq!(response.head.headers[header::LOCATION], "http://kylin.example/kylin/");
    assert_eq!(response.cookie().unwrap(), "JSESSIONID=");
    assert_eq!(node.sessions(), 0);
    assert_eq!(projects_with(&node, &cookie).await, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn a_dead_session_store_refuses_cookies_and_keeps_no_login() {
    let node = KylinNode::new("q1");
    let cookie = login(&node).await.cookie().unwrap();
    node.faults().set_session_store_down(true);
    assert_eq!(projects_with(&node, &cookie).await, StatusCode::UNAUTHORIZED);
    let lost = login(&node).await;
    assert_eq!(lost.status(), StatusCode::OK);
    node.faults().set_session_store_down(false);
    assert_eq!(projects_with(&node, &lost.cookie().unwrap()).await, StatusCode::UNAUTHORIZED);
    assert_eq!(projects_with(&node, &cookie).await, StatusCode::OK, "old sessions are back with the store");
}
