use super::super::{Dialect, Metastore};
use super::*;

const ADMIN_VERSION: &str = "/kylin/api/admin/version";

fn node(dialect: Dialect) -> KylinNode {
    KylinNode::new("q1").kylin_version(dialect)
}

async fn open(dialect: Dialect, path: &str) -> Read {
    send(&node(dialect), at("GET", path), "").await
}

#[test]
fn a_dialect_is_named_by_its_number_or_its_generation() {
    for dialect in Dialect::ALL {
        assert_eq!(dialect.to_string().parse(), Ok(dialect));
        assert_eq!(dialect.generation() == KylinVersion::V5, dialect == Dialect::V5_0);
    }
    assert_eq!("v4".parse(), Ok(Dialect::V3_1));
    assert_eq!("v5".parse(), Ok(Dialect::V5_0));
    for unknown in ["", "2", "2.", "2.4.1", "V4", "4"] {
        assert!(unknown.parse::<Dialect>().is_err(), "{unknown}");
    }
}

#[tokio::test]
async fn the_version_is_reported_from_3_1_on() {
    for dialect in Dialect::ALL {
        let response = open(dialect, ADMIN_VERSION).await;
        match dialect.reported_version() {
            Some(version) => {
                let json = response.json();
                let data = if dialect == Dialect::V5_0 { &json["data"] } else { &json };
                assert_eq!(data["kylin.version"], version);
            }
            None => assert_eq!((response.status(), response.is_html()), (StatusCode::NOT_FOUND, true), "{dialect}"),
        }
        assert_eq!(dialect.reported_version().is_some(), dialect.to_string().as_str() >= "3.1");
    }
}

#[tokio::test]
async fn an_unknown_path_has_the_start_page_before_kylin_5_and_json_in_it() {
    for dialect in Dialect::ALL {
        let response = send(&node(dialect), admin("GET", "/kylin/api/no/such/path"), "").await;
        assert_eq!(response.status(), StatusCode::NOT_FOUND);
        assert_eq!(response.is_html(), dialect != Dialect::V5_0, "{dialect}");
        let refused = open(dialect, "/kylin/api/cubes").await;
        assert_eq!(refused.status(), StatusCode::UNAUTHORIZED);
        assert_eq!(refused.is_html(), dialect != Dialect::V5_0, "{dialect}");
    }
}

#[tokio::test]
async fn paths_exist_from_their_version_on() {
    const LEADER: &str = "/kylin/api/service_discovery/state/is_active_job_node";
    for dialect in Dialect::ALL {
        let leader = send(&node(dialect).active_job_node(Some(true)), admin("GET", LEADER), "").await.status();
        let discovers = matches!(dialect, Dialect::V3_0 | Dialect::V3_1 | Dialect::V4_0);
        assert_eq!(leader == StatusCode::OK, discovers, "{dialect}");
        let health = send(&node(dialect), admin("GET", "/kylin/api/health"), "").await.status();
        assert_eq!(health == StatusCode::OK, dialect == Dialect::V5_0, "{dialect}");
        let projects = open(dialect, "/kylin/api/projects").await.status();
        assert_eq!(projects == StatusCode::OK, dialect == Dialect::V2_6, "{dialect}");
    }
}

#[tokio::test]
async fn tomcat_7_has_a_slash_after_the_path_of_its_cookie_and_redirects_to_an_absolute_address() {
    for dialect in Dialect::ALL {
        let login = send(&node(dialect), admin("POST", "/kylin/api/user/authentication"), "{}").await;
        let line = login.head.headers[header::SET_COOKIE].to_str().unwrap();
        let location = open(dialect, "/kylin").await.head.headers[header::LOCATION].clone();
        if matches!(dialect, Dialect::V4_0 | Dialect::V5_0) {
            assert!(line.contains("; Path=/kylin; "), "{line}");
            assert_eq!(location, "/kylin/");
        } else {
            assert!(line.contains("; Path=/kylin/; "), "{line}");
            assert_eq!(location, "http://kylin.example/kylin/");
        }
    }
}

#[tokio::test]
async fn a_failed_query_is_a_500_before_kylin_5_and_a_200_in_it() {
    for dialect in Dialect::ALL {
        let failed = query(&node(dialect), "SYNTAX ERROR").await;
        if dialect == Dialect::V5_0 {
            assert_eq!((failed.status(), &failed.json()["data"]["isException"]), (StatusCode::OK, &json!(true)));
        } else {
            assert_eq!((failed.status(), &failed.json()["code"]), (StatusCode::INTERNAL_SERVER_ERROR, &json!("999")));
        }
    }
}

#[tokio::test]
async fn kylin_5_locks_a_user_after_three_wrong_passwords_at_every_node() {
    for dialect in Dialect::ALL {
        let metastore = Metastore::new();
        let [one, other] = ["q1", "q2"].map(|name| KylinNode::new(name).kylin_version(dialect).metastore(&metastore));
        let with = |password| at("GET", "/kylin/api/cubes").header(header::AUTHORIZATION, basic("admin", password));
        // A correct password ends the row.
        for password in ["a", "b", "KYLIN", "a", "b", "c"] {
            send(&one, with(password), "").await;
        }
        let locks = dialect == Dialect::V5_0;
        let response = send(&other, with("KYLIN"), "").await;
        let expected = if locks { StatusCode::BAD_REQUEST } else { StatusCode::OK };
        assert_eq!(response.status(), expected, "{dialect}");
        let analyst = at("GET", "/kylin/api/cubes").header(header::AUTHORIZATION, basic("ANALYST", "ANALYST"));
        assert_eq!(send(&other, analyst, "").await.status(), StatusCode::OK, "another user");
        assert_eq!(other.stats().logins, if locks { 1 } else { 2 }, "a locked user's password is not checked");
    }
}
