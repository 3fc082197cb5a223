use super::super::Metastore;
use super::*;

async fn get(node: &KylinNode, path: &str) -> Read {
    send(node, admin("GET", path), "").await
}

#[tokio::test]
async fn projects_have_the_uuid_of_their_metastore() {
    let metastore = Metastore::new();
    let uuid = |response: Read| response.json()[0]["uuid"].as_str().unwrap().to_owned();
    let [a, b] = ["q1", "q2"].map(|name| KylinNode::new(name).metastore(&metastore));
    let here = uuid(get(&a, "/kylin/api/projects").await);
    assert_eq!(here, uuid(get(&b, "/kylin/api/projects").await));
    assert_eq!(here, metastore.projects()[0].uuid);
    assert_ne!(here, uuid(get(&KylinNode::new("q3"), "/kylin/api/projects").await));
}

#[tokio::test]
async fn lists_come_in_the_shape_that_accept_asks_for() {
    let (v2, v4) = ("application/vnd.apache.kylin-v2+json", "application/vnd.apache.kylin-v4-public+json");
    for node in [KylinNode::new("q1"), v5("q1")] {
        let list =
            |accept: &'static str, path: &'static str| send(&node, admin("GET", path).header("accept", accept), "");
        for (path, name) in [("/kylin/api/projects", "projects"), ("/kylin/api/jobs", "jobs")] {
            assert!(list(v2, path).await.json()["data"][name].is_array(), "{path}");
            assert!(list(v4, path).await.json()["data"]["value"].is_array(), "{path}");
        }
        assert_eq!(list(v2, "/kylin/api/cubes").await.json()["data"]["cubes"][0]["name"], "kylin_sales_cube");
        assert_eq!(list(v4, "/kylin/api/models").await.json()["data"]["value"][0]["name"], "kylin_sales_model");
        let tables = list(v4, "/kylin/api/query/tables_and_columns?project=learn_kylin").await.json();
        assert_eq!(tables["data"][0]["columns"][0]["column_NAME"], "TRANS_ID");
        assert_eq!(list(v4, "/kylin/api/user/authentication").await.json()["data"]["username"], "ADMIN");
        let ask = admin("POST", "/kylin/api/query").header("accept", v2);
        assert_eq!(send(&node, ask, sql("select 1")).await.json()["data"]["results"][0][0], "q1");
    }
    assert!(get(&KylinNode::new("q1"), "/kylin/api/projects").await.json().is_array());
    assert!(get(&v5("q1"), "/kylin/api/projects").await.json()["data"]["value"].is_array());
}

#[tokio::test]
async fn every_build_call_is_one_job_of_the_metastore() {
    let metastore = Metastore::new();
    let [a, b] = ["q1", "q2"].map(|name| KylinNode::new(name).metastore(&metastore));
    let build = admin("PUT", "/kylin/api/cubes/c1/build").header("x-request-id", "r1");
    let job = send(&a, build, r#"{"buildType":"BUILD"}"#).await.json();
    send(&b, admin("PUT", "/kylin/api/cubes/c1/rebuild"), "{}").await;
    send(&b, admin("PUT", "/kylin/api/cubes/c2/build2"), "{}").await;
    assert_eq!((metastore.builds_of("c1"), metastore.builds_of("c2")), (2, 1));
    assert_eq!((a.stats().builds, b.stats().builds), (1, 2));
    let first = &metastore.jobs()[0];
    assert_eq!((job["uuid"].as_str(), first.node.as_str()), (Some(first.id.as_str()), "q1"));
    assert_eq!((first.request_id.as_deref(), a.seen("r1"), b.seen("r1")), (Some("r1"), 1, 0));
    assert_eq!(get(&b, "/kylin/api/jobs").await.json().as_array().unwrap().len(), 3);

    let analyst = at("PUT", "/kylin/api/cubes/c1/build").header(header::AUTHORIZATION, basic("ANALYST", "ANALYST"));
    assert_eq!(send(&a, analyst, "{}").await.status(), StatusCode::FORBIDDEN);
    assert_eq!(metastore.builds_of("c1"), 2);

    let node = v5("q3").metastore(&metastore);
    let built = send(&node, admin("POST", "/kylin/api/models/m/segments"), "{}").await.json();
    assert_eq!(built["data"]["jobs"][0]["job_id"], metastore.jobs()[3].id.as_str());
}

#[tokio::test]
async fn saved_queries_are_their_owners_and_posting_appends() {
    let node = KylinNode::new("q1");
    let body = r#"{"name":"n","project":"learn_kylin","sql":"select 1"}"#;
    for _ in 0..2 {
        send(&node, admin("POST", "/kylin/api/saved_queries"), body).await;
    }
    let mine = get(&node, "/kylin/api/saved_queries").await.json();
    assert_eq!(mine.as_array().unwrap().len(), 2);
    let analyst =
        |method: &str, path: &str| at(method, path).header(header::AUTHORIZATION, basic("ANALYST", "ANALYST"));
    assert_eq!(send(&node, analyst("GET", "/kylin/api/saved_queries"), "").await.json(), json!([]));
    let first = format!("/kylin/api/saved_queries/{}", mine[0]["id"].as_str().unwrap());
    send(&node, analyst("DELETE", &first), "").await;
    send(&node, admin("DELETE", &first), "").await;
    assert_eq!(get(&node, "/kylin/api/saved_queries").await.json().as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn open_paths_need_no_login_and_the_configuration_an_administrator() {
    let node = KylinNode::new("q1");
    let open = |method: &str, path: &str| send(&node, at(method, path), "");
    assert_eq!(open("GET", "/kylin/api/admin/version").await.json()["kylin.version"], "3.1.3");
    assert!(
        !open("GET", "/kylin/api/admin/public_config").await.json()["config"].as_str().unwrap().contains("metadata")
    );
    assert_eq!(open("PUT", "/kylin/api/cache/all/all/wipe").await.status(), StatusCode::OK);
    assert_eq!(open("PUT", "/kylin//api;x=1/cach%65/all/all/wipe").await.status(), StatusCode::OK);
    assert_eq!(node.stats().cache_calls, 2);
    assert_eq!(open("GET", "/kylin/api/admin/config").await.status(), StatusCode::UNAUTHORIZED);
    let analyst = at("GET", "/kylin/api/admin/config").header(header::AUTHORIZATION, basic("ANALYST", "ANALYST"));
    assert_eq!(send(&node, analyst, "").await.status(), StatusCode::FORBIDDEN);

    let other = KylinNode::new("q2").metastore(&node.cluster());
    send(&node, admin("PUT", "/kylin/api/admin/config"), r#"{"key":"kylin.query.x","value":"1"}"#).await;
    let config = get(&node, "/kylin/api/admin/config").await.json()["config"].as_str().unwrap().to_owned();
    assert!(config.contains("kylin.metadata.url=test_docker@jdbc,") && config.contains("password="));
    assert!(config.contains("\nkylin.query.x=1\n"));
    let unchanged = get(&other, "/kylin/api/admin/config").await.json();
    assert!(!unchanged["config"].as_str().unwrap().contains("kylin.query.x"), "it is a change of one node");
}

#[tokio::test]
async fn the_active_job_node_is_known_only_where_leaders_are_elected() {
    let path = "/kylin/api/service_discovery/state/is_active_job_node";
    for (setting, status, body) in [
        (None, StatusCode::INTERNAL_SERVER_ERROR, None),
        (Some(true), StatusCode::OK, Some("true")),
        (Some(false), StatusCode::OK, Some("false")),
    ] {
        let response = send(&KylinNode::new("q1").active_job_node(setting), at("GET", path), "").await;
        assert_eq!(response.status(), status);
        assert!(body.is_none_or(|body| response.body == body));
    }
}

#[tokio::test]
async fn kylin_5_health_follows_the_metastore_and_needs_no_login() {
    let node = v5("q1");
    let health = || send(&node, at("GET", "/kylin/api/health"), "");
    assert_eq!(health().await.json()["status"], "UP");
    node.cluster().set_down(true);
    let down = health().await;
    assert_eq!((down.status(), &down.json()["status"]), (StatusCode::SERVICE_UNAVAILABLE, &json!("DOWN")));
    let old = send(&KylinNode::new("q1"), at("GET", "/kylin/api/health"), "").await;
    assert_eq!(old.status(), StatusCode::UNAUTHORIZED, "2.x-4.x have no such path");
}

#[tokio::test]
async fn pages_are_those_of_the_web_application() {
    let node = KylinNode::new("q1");
    let get = |path: &str| send(&node, at("GET", path), "");
    let to_app = get("/kylin").await;
    assert_eq!(to_app.status(), StatusCode::FOUND);
    assert_eq!(to_app.head.headers[header::LOCATION], "http://kylin.example/kylin/");
    let start = get("/kylin/").await;
    assert!(start.status() == StatusCode::OK && start.is_html());
    let wrong = get("/kylin/no/such/page").await;
    assert_eq!((wrong.status(), &wrong.body), (StatusCode::NOT_FOUND, &start.body));
    let wrong = send(&node, admin("GET", "/kylin/api/no/such/call"), "").await;
    assert_eq!((wrong.status(), &wrong.body), (StatusCode::NOT_FOUND, &start.body));
    assert_eq!(get("/").await.status(), StatusCode::NOT_FOUND);
    assert_eq!(get("/kylin/%2e%2e/%2e%2e/x").await.status(), StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn head_is_get_without_the_body() {
    let node = KylinNode::new("q1");
    let whole = send(&node, at("GET", "/kylin/api/admin/version"), "").await;
    let head = send(&node, at("HEAD", "/kylin/api/admin/version"), "").await;
    assert_eq!(head.body.len(), 0);
    assert_eq!(head.head.headers[header::CONTENT_LENGTH], whole.body.len().to_string().as_str());
    assert_eq!(node.stats().cancelled, 0);
}

#[tokio::test]
async fn a_request_body_that_is_too_long_is_refused() {
    let node = KylinNode::new("q1");
    let response = send(&node, admin("POST", "/kylin/api/query"), vec![b' '; 16 * 1024 * 1024 + 1]).await;
    assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
}
