"""Dashboards, recording rules and alerts, written as typed code and generated into the chart.

    targets      which pods are scraped and how their series are labelled: said once, for every way of scraping
    rules        recording rules and alerts (`alerts/`)      -> charts/wenxin-operator/alerts/*.yaml
    grafana      what a dashboard is made of (`boards/`)     -> charts/wenxin-operator/dashboards/*.json
    generate     writes all of it, or checks that it is up to date (`make dashboards`, `make check`)
    promql       which metrics and labels a query names; `exposed` says which ones there are
    prometheus   a Prometheus of our own, for the tests and for pictures
    draw         a dashboard's panels as a picture, from the answers of any Prometheus

Not in the wheel: nothing here runs in a cluster.
"""
