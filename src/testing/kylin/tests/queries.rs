use std::time::Duration;

use http_body::Body as _;

use super::super::{Metastore, Mode};
use super::*;

#[tokio::test]
async fn a_result_names_the_node_and_has_kylins_fields() {
    let response = query(&KylinNode::new("q1"), "select 1").await;
    let result = response.json();
    assert_eq!(result["results"], json!([["q1", "select 1"]]));
    assert_eq!(result["columnMetas"][0]["columnTypeName"], "VARCHAR");
    assert_eq!((&result["isException"], &result["exceptionMessage"]), (&json!(false), &Value::Null));
    let prepared = send(&KylinNode::new("q1"), admin("POST", "/kylin/api/query/prestate"), sql("select 2")).await;
    assert_eq!(prepared.json()["results"], json!([["q1", "select 2"]]));

    let result = query(&v5("q1"), "select 1").await.json();
    assert_eq!(result["code"], "000");
    assert_eq!(result["data"]["results"], json!([["q1", "select 1"]]));
    assert_eq!(result["data"]["server"], "q1:7070");
    assert_eq!(result["data"]["queryId"].as_str().unwrap().len(), 36);
}

#[tokio::test]
async fn failing_sql_is_a_500_in_2_to_4_and_a_200_in_5() {
    for text in ["select SYNTAX ERROR", "delete from t", "-- nothing"] {
        let node = KylinNode::new("q1");
        let old = query(&node, text).await;
        assert_eq!(old.status(), StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(old.json()["code"], "999");
        assert_eq!(old.json()["url"], "http://kylin.example/kylin/api/query");
        assert!(old.json()["msg"].as_str().unwrap().contains(text));
        assert_eq!(node.executed(text), 1);

        let new = query(&v5("q1"), text).await;
        assert_eq!(new.status(), StatusCode::OK);
        assert_eq!(new.json()["data"]["isException"], true);
        assert!(new.json()["data"]["exceptionMessage"].as_str().unwrap().contains(text));
    }
}

#[tokio::test]
async fn what_kylin_refuses_is_not_executed() {
    let node = KylinNode::new("q1");
    let ask = |body: &'static str| send(&node, admin("POST", "/kylin/api/query"), body);
    for body in
        [r#"{"sql":"select 1"}"#, r#"{"sql":"select 1","project":"other"}"#, r#"{"project":"learn_kylin"}"#, "{"]
    {
        let response = ask(body).await;
        assert_eq!(response.status(), StatusCode::BAD_REQUEST, "{body}");
        assert_eq!(response.json()["code"], "999");
    }
    node.set_mode(Mode::Job);
    let response = query(&node, "select 1").await;
    assert_eq!(response.status(), StatusCode::BAD_REQUEST);
    assert_eq!(response.json()["msg"], "Query is not allowed in 'job' mode.");
    assert_eq!(node.stats().queries, 0);

    let node = v5("q1").mode(Mode::Job);
    let response = query(&node, "select 1").await;
    assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(response.json()["error_code"], "KE-040023202");
    assert_eq!(node.stats().queries, 0);
}

#[tokio::test]
async fn kylin_5_wants_a_user_agent() {
    let request = Request::post("/kylin/api/query").header(header::AUTHORIZATION, basic("ADMIN", "KYLIN"));
    assert_eq!(send(&v5("q1"), request, sql("select 1")).await.status(), StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn queries_beyond_the_limit_are_refused_while_others_run() {
    for node in [KylinNode::new("q1"), v5("q1")] {
        node.faults().set_concurrent_queries(Some(1));
        let running = tokio::spawn({
            let node = node.clone();
            async move { query(&node, "select sleep_ms(600000)").await }
        });
        node.wait_until(|stats| stats.running == 1).await.unwrap();
        let refused = query(&node, "select 1").await.json();
        let message = refused["msg"].as_str().filter(|text| !text.is_empty());
        let message = message.or(refused["data"]["exceptionMessage"].as_str()).unwrap();
        assert_eq!(message, "Too many concurrent query requests.");
        running.abort();
        node.wait_until(|stats| stats.running == 0).await.unwrap();
        assert_eq!(query(&node, "select 1").await.status(), StatusCode::OK);
    }
}

#[tokio::test(start_paused = true)]
async fn a_query_takes_the_time_that_was_asked_for() {
    let node = KylinNode::new("q1");
    node.faults().set_query_latency(Duration::from_secs(2));
    let begun = tokio::time::Instant::now();
    query(&node, "select sleep_ms(250)").await;
    assert_eq!(begun.elapsed(), Duration::from_millis(2250));
}

#[tokio::test]
async fn a_query_that_is_given_up_counts_as_cancelled() {
    let node = KylinNode::new("q1");
    let asking = tokio::spawn({
        let node = node.clone();
        async move { query(&node, "select sleep_ms(600000)").await }
    });
    node.wait_until(|stats| stats.running == 1).await.unwrap();
    asking.abort();
    let stats = node.wait_until(|stats| stats.in_flight == 0).await.unwrap();
    assert_eq!((stats.cancelled, stats.running, stats.queries), (1, 0, 1));
}

#[tokio::test]
async fn a_long_result_is_streamed_and_is_valid_json() {
    for (text, announced) in [("select repeat_bytes(1048576)", true), ("select repeat_bytes_chunked(1048576)", false)] {
        let node = KylinNode::new("q1");
        let request = admin("POST", "/kylin/api/query").body(sql(text).into()).unwrap();
        let response = node.send(request).await.unwrap();
        assert_eq!(response.body().size_hint().exact().is_some(), announced);
        assert_eq!(node.stats().in_flight, 1, "the response has not ended yet");
        let result = Read::of(response).await.json();
        assert_eq!(result["results"][0][0], "q1");
        assert_eq!(result["results"][0][1].as_str().unwrap().len(), 1_048_576);
        let stats = node.stats();
        assert_eq!((stats.in_flight, stats.cancelled), (0, 0));
    }
}

#[tokio::test]
async fn a_response_dropped_in_the_middle_counts_as_cancelled() {
    let node = KylinNode::new("q1");
    let request = admin("POST", "/kylin/api/query").body(sql("select repeat_bytes(10000000)").into()).unwrap();
    let mut response = node.send(request).await.unwrap();
    response.body_mut().frame().await.unwrap().unwrap();
    drop(response);
    assert_eq!((node.stats().in_flight, node.stats().cancelled), (0, 1));
}

#[tokio::test]
async fn csv_is_exported_by_each_version() {
    let node = KylinNode::new("q1");
    let request = admin("GET", "/kylin/api/query/format/csv?sql=select+%22a%22&project=learn_kylin");
    let response = send(&node, request, "").await;
    assert_eq!(response.body, "NODE,SQL\nq1,\"select \"\"a\"\"\"\n");
    assert_eq!(response.head.headers[header::CONTENT_TYPE], "text/csv;charset=utf-8");
    let form = "sql=select+1&project=learn_kylin";
    let response = send(&v5("q1"), admin("POST", "/kylin/api/query/format/csv"), form).await;
    assert_eq!(response.body, "NODE,SQL\nq1,\"select 1\"\n");
}

#[tokio::test]
async fn running_queries_are_listed_and_stopped_on_their_own_node_in_2_to_4() {
    let metastore = Metastore::new();
    let [here, there] = ["q1", "q2"].map(|name| KylinNode::new(name).metastore(&metastore));
    let asking = tokio::spawn({
        let node = here.clone();
        async move { query(&node, "select sleep_ms(600000)").await }
    });
    here.wait_until(|stats| stats.running == 1).await.unwrap();
    let listed = send(&here, admin("GET", "/kylin/api/query/runningQueries"), "").await.json();
    assert_eq!(listed[0]["sql"], "select sleep_ms(600000)");
    assert_eq!(send(&there, admin("GET", "/kylin/api/query/runningQueries"), "").await.json(), json!([]));
    let stop = format!("/kylin/api/query/{}/stop", listed[0]["queryId"].as_str().unwrap());
    assert_eq!(send(&there, admin("PUT", &stop), "").await.status(), StatusCode::OK, "200 without an effect");
    assert_eq!(here.stats().running, 1);
    assert_eq!(send(&here, admin("PUT", &stop), "").await.status(), StatusCode::OK);
    assert_eq!(asking.await.unwrap().status(), StatusCode::INTERNAL_SERVER_ERROR);

    let analyst =
        at("GET", "/kylin/api/query/runningQueries").header(header::AUTHORIZATION, basic("ANALYST", "ANALYST"));
    assert_eq!(send(&here, analyst, "").await.status(), StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn any_kylin_5_node_stops_a_query_of_its_cluster() {
    let metastore = Metastore::new();
    let [here, there] = ["q1", "q2"].map(|name| v5(name).metastore(&metastore));
    let asking = tokio::spawn({
        let node = here.clone();
        let body = json!({"sql": "select sleep_ms(600000)", "project": "learn_kylin", "stopId": "mine"}).to_string();
        async move { send(&node, admin("POST", "/kylin/api/query"), body).await }
    });
    here.wait_until(|stats| stats.running == 1).await.unwrap();
    assert_eq!(send(&there, admin("DELETE", "/kylin/api/query/mine"), "").await.status(), StatusCode::OK);
    assert_eq!(asking.await.unwrap().json()["data"]["isException"], true);
}
